"""How many requests are let through, in this process, for each of many keys."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_REMEMBERED = 10_000
"""The most recent keys that are kept in memory."""

_BURST_SECONDS = 60.0


class Rates:
    """An allowance for each key that refills over a minute (GCRA: one time per key).

    Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, *, per_minute: int) -> float:
        """Count a request; return 0, or the seconds to wait if the allowance is used up."""
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(key, now), now) + _BURST_SECONDS / per_minute
            wait = full_at - now - _BURST_SECONDS
            if wait > _ROUNDING:
                return wait
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
            if len(self._full_at) > _REMEMBERED:
                self._full_at.popitem(last=False)
            return 0.0

    def give_back(self, key: Hashable, *, per_minute: int) -> None:
        """Undo the count of a request."""
        with self._lock:
            if key in self._full_at:
                self._full_at[key] -= _BURST_SECONDS / per_minute


_ROUNDING = 1e-6
"""Seconds; sums of fractions must not refuse the last request of an allowance."""
