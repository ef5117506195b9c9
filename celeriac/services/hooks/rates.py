"""How many requests are let through, in this process, for each of many keys."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")

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

    def wait(self, key: Hashable, *, per_minute: int) -> float:
        """Return 0, or the seconds to wait if the allowance is used up; count nothing."""
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(key, now), now) + _BURST_SECONDS / per_minute
            return _over(full_at - now - _BURST_SECONDS)

    def take(self, key: Hashable, *, per_minute: int) -> float:
        """Count a request; return 0, or the seconds to wait if the allowance is used up."""
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(key, now), now) + _BURST_SECONDS / per_minute
            wait = _over(full_at - now - _BURST_SECONDS)
            if not wait:
                remember(self._full_at, key, full_at)
            return wait


def _over(seconds: float) -> float:
    return seconds if seconds > _ROUNDING else 0.0


def remember(memory: OrderedDict[Hashable, T], key: Hashable, value: T) -> None:
    """Put a value into a memory that keeps the most recent ones."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


_ROUNDING = 1e-6
"""Seconds; sums of fractions must not refuse the last request of an allowance."""
