"""The budget ledger of a process: reserves and charges model calls, and asks for more budget."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import structlog

from celeriac.db.audit import Program
from celeriac.db.budgets import management, reservations
from celeriac.db.budgets.reservations import ReservationResult
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import events
from celeriac.db.webhooks import deliveries
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import BudgetState, can_hold, clip_of
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.model import Lease, MustWaitError, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import CallEstimate, Reservation, dollars
from celeriac.domain.webhooks import WebhookEvent
from celeriac.kit.backoff import grown
from celeriac.kit.json_types import JsonObject
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.manage import answer_all_for_budget
from celeriac.services.budgets.messages import (
    breach,
    check_price,
    extension_of,
    parked_behind,
    question_about,
    sentence,
    spent_error,
)
from celeriac.services.ports import Job, LiveEvents
from celeriac.services.retrying import patiently_await, retry_statement, retry_until_stored_in

logger = structlog.get_logger(__name__)

KNOWN_SECONDS = 5.0
"""How long the set of budgeted tasks and users is cached; a new budget applies after that."""

_IN_PLACE_SECONDS = 2.0
_FIRST_POLL_SECONDS = (0.1, 0.3)
_LATER_POLL_SECONDS = (0.5, 1.5)
_BUSY_SECONDS = 3.0
_LONGEST_BUSY_SECONDS = 120.0
"""How long an execution is parked while other calls hold the rest of a budget: it doubles each
time, for calls that take long."""

_DATABASE_SECONDS = 60.0
_FREE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used; `cost` is in US dollars, None if no price is known."""

    cost: Decimal | None
    tokens: int


NOTHING = Used(_FREE, 0)


class BudgetLedger:
    """The budgets of executions, tasks, users and workspaces. Safe to share between threads.

    Which tasks, users and workspaces have budgets is read once in five seconds for the whole
    process, so an execution without a budget costs no query.
    """

    def __init__(self, database: Database, questions: Questions, live: LiveEvents) -> None:
        self._database = database
        self._questions = questions
        self._live = live
        self._subjects = _BudgetedSubjects(database)

    async def reserve(
        self, lease: Lease, job: Job, call: CallEstimate, *, may_park: bool
    ) -> Reservation | None:
        """Reserve a call in all budgets that apply; None if none does.

        Waits while other calls hold the rest of a budget. Raises BudgetSpentError, MustWaitError
        if the attempt may be parked, AgentMisconfiguredError for a call without a price under a
        cost limit, and LeaseLostError.
        """
        if not await self._applies(job):
            return None
        until = time.monotonic() + _IN_PLACE_SECONDS
        reservation_id = uuid4()
        while True:
            found = await self._reserve(lease, job, call, reservation_id)
            if not found.held:
                raise LeaseLostError("This worker no longer owns the attempt.")
            if not found.states:
                return None
            if found.admitted:
                bounded = any(each.max_cost is not None for each in found.states)
                return Reservation(
                    reservation_id,
                    day=found.day,
                    clip=clip_of(found.states, call),
                    free=bounded and call.cost == 0,
                )
            check_price(call, found.states)
            spent = [each for each in found.states if each.spent_out or not can_hold(each, call)]
            if spent:
                await self._ask_for_more(lease, job, spent, call=call, may_park=may_park)
                continue
            in_place = time.monotonic() <= until
            if may_park and not in_place:
                seconds = await self._park_seconds(lease.execution_id)
                raise MustWaitError(parked_behind(found.states, seconds))
            poll = _FIRST_POLL_SECONDS if in_place else _LATER_POLL_SECONDS
            await asyncio.sleep(random.uniform(*poll))

    async def settle(self, job: Job, reservation_id: UUID, used: Used) -> date | None:
        """Replace a reservation by what the call used.

        Returns the day (UTC) of the windows charged if they are not those of the reservation.
        """
        cost, tokens = used.cost or _FREE, used.tokens
        tried = gone = False

        def settle() -> date | None:
            nonlocal tried, gone
            if not gone:
                first, tried = not tried, True
                with self._database.autocommit() as connection:
                    settled = reservations.settle(
                        connection, reservation_id, cost=cost, tokens=tokens
                    )
                # a repeated try finds nothing if an earlier one settled and its answer was lost
                if settled or not first or not (cost or tokens):
                    return None
                gone = True  # the keeper released it as leaked; the call was made all the same
            return self._spend(job, used, reservation_id).day

        return await retry_until_stored_in(
            self._database.threads, settle, seconds=_DATABASE_SECONDS
        )

    async def spend(self, lease: Lease, job: Job, used: Used) -> date | None:
        """Charge a call without a reservation, after it was made.

        Returns the day (UTC) of the windows, None if no budget applies. Raises BudgetSpentError if
        that exceeds a budget and nobody allows more.
        """
        if self._known_without_budget(job):
            return None
        charge_id = uuid4()

        def spend() -> ReservationResult | None:
            if not job.has_budget:
                self._subjects.read()
                if not self._subjects.include(job.owner_id, job.task_id, job.workspace_id):
                    return None
            return self._spend(job, used, charge_id)

        found = await retry_until_stored_in(
            self._database.threads, spend, seconds=_DATABASE_SECONDS
        )
        if found is None:
            return None
        exceeded = [each for each in found.states if each.exceeded]
        if exceeded:
            await self._ask_for_more(lease, job, exceeded, may_park=False)
        return found.day

    async def _applies(self, job: Job) -> bool:
        if not job.has_budget and not self._subjects.fresh:
            await patiently_await(self._subjects.refresh, seconds=_DATABASE_SECONDS)
        return job.has_budget or self._subjects.include(job.owner_id, job.task_id, job.workspace_id)

    def _known_without_budget(self, job: Job) -> bool:
        if job.has_budget or not self._subjects.fresh:
            return False
        return not self._subjects.include(job.owner_id, job.task_id, job.workspace_id)

    async def _reserve(
        self, lease: Lease, job: Job, call: CallEstimate, reservation_id: UUID
    ) -> ReservationResult:
        return await retry_statement(
            self._database,
            lambda connection: reservations.reserve(
                connection,
                lease,
                _scope(job),
                reservation_id=reservation_id,
                cost=call.cost,
                tokens=call.input_tokens + call.output_tokens,
                least_cost=call.least_cost or _FREE,
                least_tokens=call.least_tokens,
            ),
            seconds=_DATABASE_SECONDS,
        )

    async def _park_seconds(self, execution_id: UUID) -> float:
        parks = await retry_statement(
            self._database,
            lambda connection: events.parks_since_last_call(
                connection, execution_id, reason=WaitingFor.BUDGET
            ),
            seconds=_DATABASE_SECONDS,
        )
        return grown(_BUSY_SECONDS, parks, _LONGEST_BUSY_SECONDS) * random.uniform(1, 2)

    def _spend(self, job: Job, used: Used, charge_id: UUID) -> ReservationResult:
        with self._database.autocommit() as connection:
            return reservations.spend(
                connection,
                _scope(job),
                charge_id=charge_id,
                attempt=job.attempt,
                cost=used.cost or _FREE,
                tokens=used.tokens,
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
        """Return once the limits are raised; otherwise raise what ends or parks the attempt."""
        await self._notify(job, spent)
        for each in spent:
            if each.on_budget is OnBudget.STOP:
                raise spent_error(each, call=call)
        questions = {each: question_about(each, job, call) for each in spent}
        unanswered = await self._apply_answers(lease, questions)
        if unanswered and may_park:
            note = "; ".join(breach(each, call) for each in unanswered)
            raise MustWaitError(
                Parked(WaitingFor.BUDGET, sentence(note), questions=tuple(unanswered.values()))
            )
        for question in unanswered.values():
            await self._questions.ask(lease, question)
        for each in await self._apply_answers(lease, unanswered):
            raise spent_error(each)  # another kind of question has taken the key

    async def _notify(self, job: Job, spent: Sequence[BudgetState]) -> None:
        """Tell webhooks of the workspace that budgets are spent, once for each limit and window.

        Not of a user's budget, whose numbers are private.
        """
        workspace_id = job.workspace_id
        shown = [each for each in spent if not each.private]
        if workspace_id is None or not shown:
            return

        def add(connection: Connection) -> None:
            for each in shown:
                deliveries.add_once(
                    connection,
                    workspace_id,
                    event=WebhookEvent.BUDGET_SPENT,
                    once=f"budget:{each.budget_id}:{each.window}:{each.raised}",
                    execution_id=job.execution_id,
                    data=_told(each),
                )

        await retry_statement(self._database, add, seconds=_DATABASE_SECONDS)

    async def _apply_answers(
        self, lease: Lease, questions: Mapping[BudgetState, Question]
    ) -> dict[BudgetState, Question]:
        """Apply the answers there are; return the questions without one."""
        if not questions:
            return {}
        answers = await self._questions.answers(lease.execution_id, kind=QuestionKind.BUDGET)
        for each, question in questions.items():
            if question.key in answers:
                await self._apply_answer(each, question, answers[question.key])
        return {each: asked for each, asked in questions.items() if asked.key not in answers}

    async def _apply_answer(self, state: BudgetState, question: Question, answer: Answer) -> None:
        """Raise a window's limits once for all executions that asked about it, and resume them."""
        if not answer.approved:
            raise spent_error(state, f"More was denied by {answer.by or 'nobody in time'}.")
        cost, tokens = extension_of(state, answer)

        def raise_limits() -> None:
            with self._database.autocommit() as connection:
                raised = management.raise_limits(connection, state, cost=cost, tokens=tokens)
            if raised:
                logger.info(
                    "budget.raised",
                    budget_id=state.budget_id,
                    window=state.window,
                    by=answer.by,
                    cost=str(cost),
                    tokens=tokens,
                )
            # in any case: an earlier try may have raised them and lost its answer
            note = "Answered with another execution's question about the same budget."
            by = Program(answer.by)
            resumed = answer_all_for_budget(self._database, question.key, by=by, note=note)
            self._live.changed(resumed)

        await retry_until_stored_in(self._database.threads, raise_limits, seconds=_DATABASE_SECONDS)


class _BudgetedSubjects:
    """The ids of tasks, users and workspaces that have budgets, as of a few seconds ago."""

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
        """Read them unless they are fresh; concurrent callers wait for one read."""
        with self._lock:
            if self.fresh:
                return
            if self._reading is None or self._reading.done():
                self._reading = self._database.threads.submit(self.read)
            reading = self._reading
        await asyncio.shield(asyncio.wrap_future(reading))

    def read(self) -> None:
        """Read them unless they are fresh, in the calling thread."""
        if self.fresh:
            return
        began = time.monotonic()
        with self._database.autocommit() as connection:
            self._ids = management.subjects(connection)
        self._read_at = began


def _told(state: BudgetState) -> JsonObject:
    """Return what is sent to webhooks about a budget."""
    return {
        "budget_id": str(state.budget_id),
        "scope": state.scope.value,
        "subject_id": str(state.subject_id),
        "window": state.window,
        "max_cost": None if state.max_cost is None else dollars(state.max_cost),
        "max_tokens": state.max_tokens,
        "spent_cost": dollars(state.spent_cost),
        "spent_tokens": state.spent_tokens,
        "on_budget": state.on_budget.value,
    }


def _scope(job: Job) -> ChargeScope:
    return ChargeScope(
        job.execution_id,
        job.task_id,
        job.owner_id,
        job.workspace_id,
        job.budget,
        job.options.tree,
    )
