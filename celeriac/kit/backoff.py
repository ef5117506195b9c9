"""Growing pauses between tries, with jitter so that many clients don't retry at once."""

import math
import random

_MOST_DOUBLINGS = 30


def grown(first: float, doublings: float, longest: float) -> float:
    """Return `first` seconds doubled `doublings` times, at most `longest`."""
    return min(first * math.pow(2.0, min(doublings, _MOST_DOUBLINGS)), longest)


def jittered(seconds: float) -> float:
    """Return a pause that is up to a tenth shorter or longer, so that not all end at once."""
    return seconds * random.uniform(0.9, 1.1)


class Backoff:
    """The pauses of one client: each twice as long as the one before, up to a longest."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._tries = 0

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._tries > 0

    def failed(self) -> float:
        """Record a failed try; return the seconds to wait before the next."""
        pause = grown(self._first, self._tries, self._longest)
        self._tries += 1
        return pause * random.uniform(0.5, 1.0)

    def succeeded(self) -> bool:
        """Record a successful try; return whether the one before had failed."""
        was_failing, self._tries = self.failing, 0
        return was_failing
