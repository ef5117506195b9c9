"""The budget book of a process: reserves for model calls, settles them, and asks for more."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import structlog

from celeriac.db import budgets
from celeriac.db.budgets import ChargeScope, ReservationResult
from celeriac.db.engine import Database
from celeriac.db.executions import events
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import BudgetState, can_hold, clip_of
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.model import Lease, MustWaitError, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import CallEstimate, Clip
from celeriac.kit.backoff import grown
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.manage import (
    answer_all_for_budget,
    breach,
    check_price,
    extension_of,
    parked_behind,
    question_about,
    sentence,
    spent_error,
)
from celeriac.services.ports import Job, LiveEvents
from celeriac.services.retrying import (
    patiently_await,
    retry_until_stored_in,
    retry_while_unavailable_in,
)

logger = structlog.get_logger(__name__)

KNOWN_SECONDS = 5.0
"""After so long at most, every worker heeds a budget that was newly set."""

_IN_PLACE_SECONDS = 2.0
_LOOK_SECONDS = (0.1, 0.3)
_LATER_SECONDS = (0.5, 1.5)
_BUSY_SECONDS = 3.0
_LONGEST_BUSY_SECONDS = 120.0
"""How long an execution is parked when only calls under way hold what is left: twice as long each
time, for calls that take long."""

_PATIENCE_SECONDS = 60.0
_FREE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used; `cost` is in US dollars, None where no price is known."""

    cost: Decimal | None
    tokens: int


NOTHING = Used(_FREE, 0)


@dataclass(frozen=True, slots=True)
class Leave:
    """What is reserved for a call: its ticket, and the day (UTC) of its windows."""

    ticket: UUID
    day: date
    clip: Clip | None
    """The limit of the answer where what is left is less than the call's own."""
    free: bool
    """Whether money is bounded and the call's price is 0."""


class BudgetLedger:
    """Holds the budgets of executions, tasks and users. Safe to share between threads.

    Which tasks and users have budgets is read once in five seconds for the whole process: an
    execution without any pays nothing.
    """

    def __init__(self, database: Database, questions: Questions, live: LiveEvents) -> None:
        """Keep the book in `database`, ask people through `questions`, tell `live` of it."""
        self._database = database
        self._threads = database.threads
        self._questions = questions
        self._live = live
        self._subjects = _BudgetedSubjects(database)

    async def reserve(
        self, lease: Lease, job: Job, call: CallEstimate, *, may_park: bool
    ) -> Leave | None:
        """Reserve for a call in all budgets that apply; None where none does.

        Waits while other calls under way hold what is left. Raises BudgetSpentError,
        MustWaitError where the attempt may be parked, AgentMisconfiguredError for a call without
        a price under a budget of money, and LeaseLostError.
        """
        if not await self._applies(job):
            return None
        until = time.monotonic() + _IN_PLACE_SECONDS
        ticket = uuid4()
        while True:
            found = await self._reserve(lease, job, call, ticket)
            if not found.held:
                raise LeaseLostError("This worker no longer owns the attempt.")
            if not found.standings:
                return None
            if found.admitted:
                bounded = any(each.max_cost is not None for each in found.standings)
                clip = clip_of(found.standings, call)
                return Leave(ticket, found.day, clip, free=bounded and call.cost == 0)
            check_price(call, found.standings)
            spent = [each for each in found.standings if each.spent_out or not can_hold(each, call)]
            if spent:
                await self._ask_for_more(lease, job, spent, call=call, may_park=may_park)
                continue
            patient = time.monotonic() <= until
            if may_park and not patient:
                seconds = await self._seconds_behind_others(lease.execution_id)
                raise MustWaitError(parked_behind(found.standings, seconds))
            await asyncio.sleep(random.uniform(*(_LOOK_SECONDS if patient else _LATER_SECONDS)))

    async def settle(self, job: Job, ticket: UUID, used: Used) -> date | None:
        """Put what a call used in the place of its reservation.

        Returns the day (UTC) of the windows where they are not those of the reservation.
        """
        cost, tokens = used.cost or _FREE, used.tokens
        tried = gone = False

        def book() -> date | None:
            nonlocal tried, gone
            if not gone:
                first, tried = not tried, True
                settled = self._settle(ticket, cost, tokens)
                # a try whose answer got lost has settled it, where the next one finds nothing
                if settled or not first or not (cost or tokens):
                    return None
                gone = True  # released meanwhile, as a lost attempt's; spent all the same
            return self._spend(job, used, ticket).day

        return await retry_until_stored_in(self._threads, book, seconds=_PATIENCE_SECONDS)

    async def spend(self, lease: Lease, job: Job, used: Used) -> date | None:
        """Book a call that nothing was reserved for, after it was made.

        Returns the day (UTC) of the windows, None where no budget applies. Raises BudgetSpentError
        where that exceeds a budget and nobody allows more.
        """
        if not self._may_apply(job):
            return None
        ticket = uuid4()

        def book() -> ReservationResult | None:
            if job.budget is None:
                self._subjects.read()
                if not self._subjects.include(job.owner_id, job.task_id):
                    return None
            return self._spend(job, used, ticket)

        found = await retry_until_stored_in(self._threads, book, seconds=_PATIENCE_SECONDS)
        if found is None:
            return None
        exceeded = [each for each in found.standings if each.exceeded]
        if exceeded:
            await self._ask_for_more(lease, job, exceeded, may_park=False)
        return found.day

    async def _applies(self, job: Job) -> bool:
        if job.budget is None and not self._subjects.fresh:
            await patiently_await(self._subjects.refresh, seconds=_PATIENCE_SECONDS)
        return job.budget is not None or self._subjects.include(job.owner_id, job.task_id)

    def _may_apply(self, job: Job) -> bool:
        """Whether a budget applies, as far as that is known at this moment."""
        if job.budget is not None or not self._subjects.fresh:
            return True
        return self._subjects.include(job.owner_id, job.task_id)

    async def _reserve(
        self, lease: Lease, job: Job, call: CallEstimate, ticket: UUID
    ) -> ReservationResult:
        payer, tokens = _payer(job), call.input_tokens + call.output_tokens

        def reserve() -> ReservationResult:
            with self._database.statement() as connection:
                return _with_windows(
                    lambda: budgets.reserve(
                        connection,
                        lease,
                        payer,
                        ticket=ticket,
                        cost=call.cost,
                        tokens=tokens,
                        least_cost=call.least_cost or _FREE,
                        least_tokens=call.least_tokens,
                    ),
                    lambda: budgets.begin_windows(connection, payer),
                )

        return await retry_while_unavailable_in(self._threads, reserve, seconds=_PATIENCE_SECONDS)

    async def _seconds_behind_others(self, execution_id: UUID) -> float:
        def count() -> int:
            with self._database.statement() as connection:
                return events.parks_since_last_call(
                    connection, execution_id, reason=WaitingFor.BUDGET
                )

        parks = await retry_while_unavailable_in(self._threads, count, seconds=_PATIENCE_SECONDS)
        return grown(_BUSY_SECONDS, parks, _LONGEST_BUSY_SECONDS) * random.uniform(1, 2)

    def _settle(self, ticket: UUID, cost: Decimal, tokens: int) -> bool:
        with self._database.statement() as connection:
            return budgets.settle(connection, ticket, cost=cost, tokens=tokens)

    def _spend(self, job: Job, used: Used, ticket: UUID) -> ReservationResult:
        payer, cost, tokens = _payer(job), used.cost or _FREE, used.tokens
        with self._database.statement() as connection:
            return _with_windows(
                lambda: budgets.spend(
                    connection,
                    payer,
                    ticket=ticket,
                    attempt=job.attempt,
                    cost=cost,
                    tokens=tokens,
                ),
                lambda: budgets.begin_windows(connection, payer),
            )

    async def _ask_for_more(
        self,
        lease: Lease,
        job: Job,
        spent: Sequence[BudgetState],
        *,
        may_park: bool,
        call: CallEstimate | None = None,
    ) -> None:
        """Return once the limits are raised; else raise what ends or parks the attempt."""
        for each in spent:
            if each.on_budget is OnBudget.STOP:
                raise spent_error(each, call=call)
        questions = {each: question_about(each, job, call) for each in spent}
        open_ones = await self._heed_answers(lease, questions)
        if open_ones and may_park:
            note = "; ".join(breach(each, call) for each in open_ones)
            raise MustWaitError(
                Parked(WaitingFor.BUDGET, sentence(note), questions=tuple(open_ones.values()))
            )
        for question in open_ones.values():
            await self._questions.ask(lease, question)
        for each in await self._heed_answers(lease, open_ones):
            raise spent_error(each)  # another kind of question has taken the key

    async def _heed_answers(
        self, lease: Lease, questions: Mapping[BudgetState, Question]
    ) -> dict[BudgetState, Question]:
        """Do what the answers say, and return the questions that have none."""
        if not questions:
            return {}
        answers = await self._questions.answers(lease.execution_id, kind=QuestionKind.BUDGET)
        for each, question in questions.items():
            if question.key in answers:
                await self._heed(each, question, answers[question.key])
        return {each: asked for each, asked in questions.items() if asked.key not in answers}

    async def _heed(self, standing: BudgetState, question: Question, answer: Answer) -> None:
        if not answer.approved:
            raise spent_error(standing, f"More was refused by {answer.by or 'nobody in time'}.")
        cost, tokens = extension_of(standing, answer)
        await self._raise(standing, question, cost, tokens, answer.by)

    async def _raise(
        self, standing: BudgetState, question: Question, cost: Decimal, tokens: int, by: str
    ) -> None:
        """Raise a window's limits, once for all who asked about it, and let these go on."""
        note = "Answered with another execution's question about the same budget."

        def raise_limits() -> None:
            with self._database.statement() as connection:
                raised = budgets.raise_limits(connection, standing, cost=cost, tokens=tokens)
            if raised:
                logger.info(
                    "budget.raised",
                    budget_id=standing.budget_id,
                    window=standing.window,
                    by=by,
                    cost=str(cost),
                    tokens=tokens,
                )
            # in any case: a try whose answer got lost may have raised them
            resumed = answer_all_for_budget(self._database, question.key, by=by, note=note)
            self._live.changed(resumed)

        await retry_until_stored_in(self._threads, raise_limits, seconds=_PATIENCE_SECONDS)


class _BudgetedSubjects:
    """Who has budgets, as of a few seconds ago."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._reading: Future[None] | None = None
        self._read_at = -KNOWN_SECONDS
        self._ids: frozenset[UUID] = frozenset()

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self._read_at < KNOWN_SECONDS

    def include(self, *ids: UUID | None) -> bool:
        return not self._ids.isdisjoint(ids)

    async def refresh(self) -> None:
        """Read them unless they are known; all who ask at once wait for one reading."""
        with self._lock:
            if self.fresh:
                return
            if self._reading is None or self._reading.done():
                self._reading = self._database.threads.submit(self.read)
            reading = self._reading
        await asyncio.shield(asyncio.wrap_future(reading))

    def read(self) -> None:
        """Read them unless they are known, in a thread of the database."""
        if self.fresh:
            return
        began = time.monotonic()
        self._ids = self._find()
        self._read_at = began

    def _find(self) -> frozenset[UUID]:
        with self._database.statement() as connection:
            return budgets.subjects(connection)


def _with_windows(
    work: Callable[[], ReservationResult], begin: Callable[[], None]
) -> ReservationResult:
    """Do `work`, after the windows were begun where one was missing: at each day's first call."""
    while not (found := work()).complete:
        begin()
    return found


def _payer(job: Job) -> ChargeScope:
    return ChargeScope(job.execution_id, job.task_id, job.owner_id, job.budget)
