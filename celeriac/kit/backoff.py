"""Growing pauses between tries, spread so that many clients don't all come back at once."""

import random


class Backoff:
    """The pauses of one client: each twice as long as the one before, up to a longest."""

    def __init__(self, first: float, longest: float) -> None:
        """Begin with `first` seconds and grow to `longest`."""
        self._first = first
        self._longest = longest
        self._tries = 0

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._tries > 0

    def failed(self) -> float:
        """Note a failed try; return how many seconds to wait before the next."""
        pause = min(self._first * 2.0 ** min(self._tries, 30), self._longest)
        self._tries += 1
        return float(pause * random.uniform(0.5, 1.0))

    def succeeded(self) -> bool:
        """Note a try that succeeded; return whether the one before had failed."""
        was_failing, self._tries = self.failing, 0
        return was_failing
