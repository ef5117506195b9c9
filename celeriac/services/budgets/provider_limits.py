"""Limits of requests and tokens per provider and model, shared by all workers."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping
from uuid import UUID

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import events
from celeriac.domain.errors import DatabaseUnavailableError, ProviderRateLimitedError
from celeriac.domain.executions.model import MustWaitError, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import (
    CallEstimate,
    Rate,
    RateDenied,
    RateGrant,
    rate_requests,
)
from celeriac.kit.backoff import grown
from celeriac.kit.threads import Threads
from celeriac.services.ports import RateLimiter
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

MAX_PARKS = 20
"""How often an execution is parked for its provider's limit without an answered call in between.
After that a 429 is a failure like others, and the task's retry policy decides."""

_IN_PLACE_SECONDS = 2.0
"""The longest wait that keeps the worker's slot where the execution could be parked instead."""

_LONGEST_SECONDS = 600.0
_LONGEST_BAN_SECONDS = 3600.0
_FIRST_BACKOFF = 5.0
_DATABASE_SECONDS = 30.0
_JITTER = 0.1


class ProviderLimits:
    """Applies provider rate limits to calls. A call without a limit costs nothing."""

    def __init__(
        self, limiter: RateLimiter, rates: Mapping[str, Rate], database: Database, threads: Threads
    ) -> None:
        """Hold `rates`, by `provider` or `provider/model`; call `limiter` in `threads`."""
        self._threads = threads
        self._limiter = limiter
        self._rates = rates
        self._database = database
        self._bans: dict[str, float] = {}
        self._banning = threading.Lock()

    async def take(self, call: CallEstimate, *, may_park: bool) -> RateGrant | None:
        """Wait until the call may be made; None if no limit applies.

        Raises MustWaitError for a wait of more than a moment where the execution may be parked.
        """
        name = _name(call.provider, call.model)
        tokens = call.input_tokens + call.output_tokens
        wanted = rate_requests(self._rates, provider=call.provider, model=call.model, tokens=tokens)
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
            await asyncio.sleep(_jittered(answer.seconds))

    async def correct(self, taken: RateGrant, tokens: int) -> None:
        """Replace the estimated tokens of a call by those it used."""
        await self._threads.run(self._limiter.correct, taken, tokens)

    async def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        await self._threads.run(self._limiter.give_back, taken)

    def on_rate_limited(
        self, execution_id: UUID, error: ProviderRateLimitedError, *, replayed: bool = False
    ) -> Parked | None:
        """Ban the model after its provider's 429, and return how the execution is parked.

        A `replayed` 429 bans nothing, and the execution is resumed at once. None after `MAX_PARKS`
        times. Other workers learn of the ban through the limiter if a limit is set for the provider
        or the model, otherwise from their own 429.
        """
        parks = self._parks(execution_id)
        if replayed:
            return _parked_by(error, 0.0) if parks < MAX_PARKS else None
        backoff = grown(_FIRST_BACKOFF, parks, _LONGEST_SECONDS)
        seconds = min(error.retry_after or backoff, _LONGEST_BAN_SECONDS)
        if error.provider and error.model:
            self._ban(error.provider, error.model, seconds)
        return _parked_by(error, seconds) if parks < MAX_PARKS else None

    def _parks(self, execution_id: UUID) -> int:
        def count() -> int:
            with self._database.autocommit() as connection:
                return events.parks_since_last_call(
                    connection, execution_id, reason=WaitingFor.PROVIDER_LIMIT
                )

        try:
            return retry_while_unavailable(count, seconds=_DATABASE_SECONDS)
        except DatabaseUnavailableError:
            return 0  # parking itself waits for the database, or is left to the keeper

    def _ban(self, provider: str, model: str, seconds: float) -> None:
        name = _name(provider, model)
        now = time.monotonic()
        with self._banning:  # attempts end in several threads
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
    return Parked(WaitingFor.PROVIDER_LIMIT, error.message, seconds=_jittered(seconds))


def _parked(name: str, seconds: float) -> Parked:
    seconds = _jittered(min(seconds, _LONGEST_SECONDS))
    note = f"The limit of {name} is reached; there may be room in {seconds:.1f} s."
    return Parked(WaitingFor.PROVIDER_LIMIT, note, seconds=seconds)


def _jittered(seconds: float) -> float:
    """Return slightly more, so that calls that wait together don't all retry together."""
    return seconds * (1 + random.uniform(0, _JITTER)) + random.uniform(0, 0.05)
