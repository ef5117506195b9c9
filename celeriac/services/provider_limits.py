"""Provider limits: calls wait for their turn, here for a moment or without a worker for longer."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping
from uuid import UUID

import structlog

from celeriac.db import events
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError, ProviderRateLimitedError
from celeriac.domain.outcome import MustWaitError, Parked, WaitingFor
from celeriac.domain.rate import Rate, Refused, Taken, demands
from celeriac.domain.usage import PlannedCall
from celeriac.kit.backoff import grown
from celeriac.kit.threads import Threads
from celeriac.services.patience import patiently
from celeriac.services.ports import RateLimiter

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

    async def take(self, call: PlannedCall, *, may_park: bool) -> Taken | None:
        """Wait until the call may be made; None where no limit applies.

        Raises MustWaitError where that is more than a moment and the execution may be parked.
        """
        name = _name(call.provider, call.model)
        tokens = call.input_tokens + call.output_tokens
        wanted = demands(self._rates, provider=call.provider, model=call.model, tokens=tokens)
        while True:
            answer: Taken | Refused | None = self._banned(name)
            if answer is None:
                if not wanted:
                    return None
                answer = await self._threads.run(self._limiter.take, wanted, name=name, line=False)
            if isinstance(answer, Refused) and answer.seconds > _IN_PLACE_SECONDS and may_park:
                if wanted:
                    answer = await self._threads.run(
                        self._limiter.take, wanted, name=name, line=True
                    )
                if isinstance(answer, Refused):
                    raise MustWaitError(_parked(name, answer.seconds))
            if isinstance(answer, Taken):
                return answer
            logger.debug("provider_limit.waiting", model=name, seconds=round(answer.seconds, 3))
            await asyncio.sleep(_spread(answer.seconds))

    async def correct(self, taken: Taken, tokens: int) -> None:
        """Put what a call used in the place of what it was thought to need."""
        await self._threads.run(self._limiter.correct, taken, tokens)

    async def give_back(self, taken: Taken) -> None:
        """Take back a call that was not made."""
        await self._threads.run(self._limiter.give_back, taken)

    def sent_away(
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
            self._hold_back(error.provider, error.model, seconds)
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
            return patiently(count, seconds=_PATIENCE_SECONDS)
        except DatabaseUnavailableError:
            return 0  # the parking itself waits for the database, or is left to the keeper

    def _hold_back(self, provider: str, model: str, seconds: float) -> None:
        name = _name(provider, model)
        now = time.monotonic()
        with self._banning:  # attempts end on threads of their own
            bans = {each: until for each, until in self._bans.items() if until > now}
            bans[name] = max(bans.get(name, 0.0), now + seconds)
            self._bans = bans
        if provider in self._rates or name in self._rates:
            self._limiter.hold_back(name, seconds)

    def _banned(self, name: str) -> Refused | None:
        if not self._bans:
            return None
        rest = self._bans.get(name, 0.0) - time.monotonic()
        return Refused(rest) if rest > 0 else None


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
