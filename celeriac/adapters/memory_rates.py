"""A `RateLimiter` in memory, on a clock of its own: for tests of Celeriac and what builds on it."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from celeriac.domain.usage import RateDenied, RateGrant, RateRequest

_PIECES = 60


class MemoryRateLimiter:
    """Counts as the one in Redis does, for one process."""

    def __init__(
        self, *, window_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Count by `clock`, in seconds."""
        self._window = window_seconds
        self._piece = window_seconds / _PIECES
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, list[int]]] = defaultdict(dict)
        self._lines: dict[str, float] = {}
        self._bans: dict[str, float] = {}

    def take(
        self, demands: Sequence[RateRequest], *, name: str, line: bool
    ) -> RateGrant | RateDenied:
        """Take what a call demands; see `RateLimiter.take`."""
        with self._lock:
            now = self._clock()
            slot = int(now / self._piece)
            wait, binding = self._bans.get(name, now) - now, None
            for demand in demands:
                free = self._free_in(demand, slot, now)
                if free > wait:
                    wait, binding = free, demand
            if wait > 0:
                if line and binding is not None:
                    wait = self._line_up(binding, now + wait) - now
                return RateDenied(wait)
            for demand in demands:
                self._add(demand.name, slot, 1, demand.tokens)
            return RateGrant(tuple(demands), slot)

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Put the tokens used in the place of those demanded."""
        with self._lock:
            for demand in taken.demands:
                self._add(demand.name, taken.slot, 0, tokens - demand.tokens)

    def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        with self._lock:
            for demand in taken.demands:
                self._add(demand.name, taken.slot, -1, -demand.tokens)

    def ban(self, name: str, seconds: float) -> None:
        """Refuse all calls of `name` for so long."""
        with self._lock:
            self._bans[name] = max(self._bans.get(name, 0.0), self._clock() + seconds)

    def _add(self, name: str, slot: int, requests: int, tokens: int) -> None:
        count = self._counts[name].setdefault(slot, [0, 0])
        count[0] += requests
        count[1] += tokens

    def _free_in(self, demand: RateRequest, slot: int, now: float) -> float:
        counts = self._counts[demand.name]
        for old in [each for each in counts if each < slot - _PIECES]:
            del counts[old]
        asked = sum(count[0] for count in counts.values())
        used = sum(count[1] for count in counts.values())
        rate = demand.rate

        def full() -> bool:
            return (rate.requests is not None and asked + 1 > rate.requests) or (
                rate.tokens is not None and used + demand.tokens > rate.tokens
            )

        if not full():
            return 0.0
        for at in sorted(counts):
            asked -= counts[at][0]
            used -= counts[at][1]
            if not full():
                return max((at + _PIECES + 1) * self._piece - now, 0.001)
        return self._window

    def _line_up(self, demand: RateRequest, free_at: float) -> float:
        place = max(free_at, self._lines.get(demand.name, 0.0))
        pause = 0.0
        if demand.rate.requests:
            pause = self._window / demand.rate.requests
        if demand.rate.tokens:
            pause = max(pause, self._window * demand.tokens / demand.rate.tokens)
        self._lines[demand.name] = place + pause
        return place
