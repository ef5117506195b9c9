"""A `RateLimiter` in memory, with a clock that tests can set."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from celeriac.domain.usage import RateDenied, RateGrant, RateRequest

_SLOTS = 60


class MemoryRateLimiter:
    """Counts for one process as `RedisRateLimiter` counts for all."""

    def __init__(
        self, *, window_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Count by `clock`, in seconds."""
        self._window = window_seconds
        self._width = window_seconds / _SLOTS
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        self._queues: dict[str, float] = {}
        self._bans: dict[str, float] = {}

    def take(
        self, requests: Sequence[RateRequest], *, name: str, enqueue: bool
    ) -> RateGrant | RateDenied:
        """Count a call, or say how long it must wait; see `RateLimiter.take`."""
        with self._lock:
            now = self._clock()
            slot = int(now / self._width)
            wait, queue, share = self._bans.get(name, now) - now, "", 0.0
            for counter, limit, amount in _counters(requests):
                needed = self._wait_for(self._counts[counter], limit, amount, now)
                if needed > wait:
                    wait, queue, share = needed, counter, amount / limit
            if wait > 0:
                if enqueue and queue:
                    place = max(now + wait, self._queues.get(queue, 0.0))
                    self._queues[queue] = place + self._window * share
                    wait = place - now
                return RateDenied(wait)
            for counter, _, amount in _counters(requests):
                self._add(counter, slot, amount)
            return RateGrant(tuple(requests), slot)

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Replace the estimated tokens of a call with those it used."""
        with self._lock:
            for each in taken.requests:
                self._add(f"{each.name}:tokens", taken.slot, tokens - each.tokens)

    def give_back(self, taken: RateGrant) -> None:
        """Uncount a call that was not made."""
        with self._lock:
            for counter, _, amount in _counters(taken.requests):
                self._add(counter, taken.slot, -amount)

    def ban(self, name: str, seconds: float) -> None:
        """Refuse all calls of `name` for `seconds`."""
        with self._lock:
            self._bans[name] = max(self._bans.get(name, 0.0), self._clock() + seconds)

    def _add(self, counter: str, slot: int, amount: int) -> None:
        counts = self._counts[counter]
        counts[slot] = counts.get(slot, 0) + amount

    def _wait_for(self, counts: dict[int, int], limit: int, amount: int, now: float) -> float:
        slot = int(now / self._width)
        for old in [each for each in counts if each < slot - _SLOTS]:
            del counts[old]
        total = sum(counts.values())
        if total + amount <= limit:
            return 0.0
        for at in sorted(counts):
            total -= counts[at]
            if total + amount <= limit:
                return max((at + _SLOTS + 1) * self._width - now, 0.001)
        return self._window


def _counters(requests: Sequence[RateRequest]) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the limit and the amount to add of each counter."""
    for each in requests:
        if each.rate.requests is not None:
            yield f"{each.name}:requests", each.rate.requests, 1
        if each.rate.tokens is not None:
            yield f"{each.name}:tokens", each.rate.tokens, each.tokens
