"""Admission of model calls: limits of providers, shared by all workers, and budgets."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping
from datetime import date
from uuid import UUID, uuid4

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import events
from celeriac.domain.errors import DatabaseUnavailableError, ProviderRateLimitedError
from celeriac.domain.executions.model import Lease, MustWaitError, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import (
    CallEstimate,
    ModelCall,
    Rate,
    RateDenied,
    RateGrant,
    Reservation,
    demands,
)
from celeriac.kit.backoff import grown
from celeriac.kit.threads import Threads
from celeriac.services.budgets.ledger import NOTHING, BudgetLedger, Used
from celeriac.services.ports import Job, RateLimiter
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

MAX_PARKS = 20
"""How often a provider may send an execution away before one answered call; then it is a failure
like others, and the task's retry policy decides."""

_IN_PLACE_SECONDS = 2.0
"""The longest wait that keeps the worker's slot, where the execution could be parked instead."""

_LONGEST_SECONDS = 600.0
_LONGEST_BAN_SECONDS = 3600.0
_FIRST_BACKOFF = 5.0
_PATIENCE_SECONDS = 30.0
_SPREAD = 0.1


class ProviderLimits:
    """Asks the limiter in the name of calls. Calls that no limit applies to cost nothing."""

    def __init__(
        self, limiter: RateLimiter, rates: Mapping[str, Rate], database: Database, threads: Threads
    ) -> None:
        """Hold `rates`, by `provider` or `provider/model`, with `limiter`, asked in `threads`."""
        self._threads = threads
        self._limiter = limiter
        self._rates = rates
        self._database = database
        self._bans: dict[str, float] = {}
        self._banning = threading.Lock()

    async def take(self, call: CallEstimate, *, may_park: bool) -> RateGrant | None:
        """Wait until the call may be made; None where no limit applies.

        Raises MustWaitError where that is more than a moment and the execution may be parked.
        """
        name = _name(call.provider, call.model)
        tokens = call.input_tokens + call.output_tokens
        wanted = demands(self._rates, provider=call.provider, model=call.model, tokens=tokens)
        while True:
            answer: RateGrant | RateDenied | None = self._banned(name)
            if answer is None:
                if not wanted:
                    return None
                answer = await self._threads.run(
                    self._limiter.take, wanted, name=name, enqueue=False
                )
            if isinstance(answer, RateDenied) and answer.seconds > _IN_PLACE_SECONDS and may_park:
                if wanted:
                    answer = await self._threads.run(
                        self._limiter.take, wanted, name=name, enqueue=True
                    )
                if isinstance(answer, RateDenied):
                    raise MustWaitError(_parked(name, answer.seconds))
            if isinstance(answer, RateGrant):
                return answer
            logger.debug("provider_limit.waiting", model=name, seconds=round(answer.seconds, 3))
            await asyncio.sleep(_spread(answer.seconds))

    async def correct(self, taken: RateGrant, tokens: int) -> None:
        """Put what a call used in the place of what it was thought to need."""
        await self._threads.run(self._limiter.correct, taken, tokens)

    async def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        await self._threads.run(self._limiter.give_back, taken)

    def on_rate_limited(
        self, execution_id: UUID, error: ProviderRateLimitedError, *, played: bool = False
    ) -> Parked | None:
        """Hold back all calls of a model whose provider asks to slow down, and park this one.

        Where a cassette `played` that, nobody is held back, and it goes on as soon as it is parked.
        None where the execution was sent away too often already. Other workers hear of it through
        the limiter where a limit is set for the provider or the model, else by their own refusal.
        """
        parks = self._parks(execution_id)
        if played:
            return _parked_by(error, 0.0) if parks < MAX_PARKS else None
        backoff = grown(_FIRST_BACKOFF, parks, _LONGEST_SECONDS)
        seconds = min(error.retry_after or backoff, _LONGEST_BAN_SECONDS)
        if error.provider and error.model:
            self._ban(error.provider, error.model, seconds)
        if parks >= MAX_PARKS:
            return None
        return _parked_by(error, seconds)

    def _parks(self, execution_id: UUID) -> int:
        def count() -> int:
            with self._database.statement() as connection:
                return events.parks_since_last_call(
                    connection, execution_id, reason=WaitingFor.PROVIDER_LIMIT
                )

        try:
            return retry_while_unavailable(count, seconds=_PATIENCE_SECONDS)
        except DatabaseUnavailableError:
            return 0  # the parking itself waits for the database, or is left to the keeper

    def _ban(self, provider: str, model: str, seconds: float) -> None:
        name = _name(provider, model)
        now = time.monotonic()
        with self._banning:  # attempts end on threads of their own
            bans = {each: until for each, until in self._bans.items() if until > now}
            bans[name] = max(bans.get(name, 0.0), now + seconds)
            self._bans = bans
        if provider in self._rates or name in self._rates:
            self._limiter.ban(name, seconds)

    def _banned(self, name: str) -> RateDenied | None:
        if not self._bans:
            return None
        rest = self._bans.get(name, 0.0) - time.monotonic()
        return RateDenied(rest) if rest > 0 else None


def _name(provider: str, model: str) -> str:
    return f"{provider}/{model}"


def _parked_by(error: ProviderRateLimitedError, seconds: float) -> Parked:
    return Parked(WaitingFor.PROVIDER_LIMIT, error.message, seconds=_spread(seconds))


def _parked(name: str, seconds: float) -> Parked:
    seconds = _spread(min(seconds, _LONGEST_SECONDS))
    note = f"The limit of {name} is reached; there may be room in {seconds:.1f} s."
    return Parked(WaitingFor.PROVIDER_LIMIT, note, seconds=seconds)


def _spread(seconds: float) -> float:
    """Return a little more, so that those who wait together don't all come back together."""
    return seconds * (1 + random.uniform(0, _SPREAD)) + random.uniform(0, 0.05)


class Admission:
    """Says whether a model call may be made now, and books what it used."""

    def __init__(self, limits: ProviderLimits, book: BudgetLedger) -> None:
        """Ask `limits` first: who waits for a provider holds nothing of a budget meanwhile."""
        self._limits = limits
        self._book = book

    async def admit(
        self, lease: Lease, job: Job, call: CallEstimate, *, may_park: bool
    ) -> Reservation | None:
        """Give leave for a model call, at once or after a moment; see `RunContext.admit`.

        None where neither a limit nor a budget applies: the call was asked for nothing.
        """
        taken = await self._limits.take(call, may_park=may_park)
        try:
            reserved = await self._book.reserve(lease, job, call, may_park=may_park)
        except BaseException:
            if taken is not None:
                await self._limits.give_back(taken)
            raise
        if taken is None and reserved is None:
            return None
        if reserved is None:
            return Reservation(uuid4(), reserved=False, taken=taken)
        return Reservation(
            reserved.ticket,
            taken=taken,
            day=reserved.day,
            clip=reserved.clip,
            free=reserved.free,
        )

    async def charge(
        self, lease: Lease, job: Job, call: ModelCall, ticket: Reservation | None
    ) -> date | None:
        """Put what a call used in the place of what was reserved for it.

        One that was not reserved for is booked after the fact; raises BudgetSpentError where it
        exceeds a budget. Returns the day (UTC) of the budget windows that it was booked in.
        """
        used = _used(call)
        try:  # first: a cancellation while a limit is corrected must not cost the booking
            if ticket is not None and ticket.reserved:
                return await self._book.settle(job, ticket.id, used) or ticket.day
            return await self._book.spend(lease, job, used)
        finally:
            if ticket is not None and ticket.taken is not None:
                await self._limits.correct(ticket.taken, used.tokens)

    async def release(self, job: Job, ticket: Reservation) -> None:
        """Give back what was reserved for a call that came to nothing."""
        if ticket.taken is not None:
            await self._limits.correct(ticket.taken, 0)
        if ticket.reserved:
            await self._book.settle(job, ticket.id, NOTHING)

    def on_rate_limited(
        self, lease: Lease, error: ProviderRateLimitedError, *, played: bool = False
    ) -> Parked | None:
        """Return how an execution waits whose provider asks to slow down; see ProviderLimits."""
        return self._limits.on_rate_limited(lease.execution_id, error, played=played)


def _used(call: ModelCall) -> Used:
    told = call.booked or call
    return Used(told.cost, told.input_tokens + told.output_tokens)
