"""The time limits of one attempt. Their clock is paused while it waits for a person."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from celeriac.domain.tasks import Limits

_LOOK_SECONDS = 0.25
"""How late a limit may be noticed that is reached shortly after a pause."""

_LONGEST_LOOK_SECONDS = 3_600.0


class TimeLimits:
    """The soft and the hard limit of an attempt, in seconds.

    The clock is paused while at least one question to a person is open. Safe to use from any thread
    and any event loop.
    """

    def __init__(self) -> None:
        self.soft_passed = False
        """Whether the agent was cancelled at its soft limit."""
        self._lock = threading.Lock()
        self._soft = self._hard = math.inf
        self._spent = 0.0
        self._since = time.monotonic()
        self._open = 0

    def begin(self, limits: Limits) -> None:
        """Set the limits and start the clock."""
        with self._lock:
            self._soft, self._hard = limits.soft_seconds, limits.hard_seconds
            self._spent, self._since = 0.0, time.monotonic()
            self.soft_passed = False

    def pause(self) -> Callable[[], None]:
        """Pause the clock; return what resumes it, which may be called more than once.

        The clock runs again when every pause is resumed.
        """
        with self._lock:
            if self._open == 0:
                self._spent += time.monotonic() - self._since
            self._open += 1
        done = False

        def resume() -> None:
            nonlocal done
            with self._lock:
                if done:
                    return
                done = True
                self._open -= 1
                if self._open == 0:
                    self._since = time.monotonic()

        return resume

    @property
    def paused(self) -> bool:
        """Whether the attempt waits for a person."""
        return self._open > 0

    @property
    def soft_left(self) -> float:
        """Seconds until the soft limit."""
        return self._soft - self._elapsed()

    @property
    def hard_left(self) -> float:
        """Seconds until the hard limit."""
        return self._hard - self._elapsed()

    @property
    def deadline(self) -> float:
        """The hard limit in `time.monotonic()` seconds, if the clock runs from now on."""
        return time.monotonic() + self.hard_left

    @property
    def hard_passed(self) -> bool:
        """Whether the hard limit is reached and the clock is not paused."""
        return self._over(self.hard_left)

    @property
    def next_look(self) -> float:
        """Seconds until `hard_passed` must be read again; less if the clock is paused meanwhile."""
        return self._until_look(self.hard_left)

    def wait(self, wait: Callable[[float], bool]) -> bool:
        """Call `wait(seconds)` until it returns true; false where the hard limit comes first."""
        while not wait(self._until_look(self.hard_left)):
            if self._over(self.hard_left):
                return False
        return True

    def soft(self) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """Cancel the block at the soft limit, as `asyncio.timeout` does."""

        def passed() -> None:
            self.soft_passed = True

        return self._limited(lambda: self.soft_left, passed)

    def hard(self) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """Cancel the block at the hard limit, as `asyncio.timeout` does."""
        return self._limited(lambda: self.hard_left, lambda: None)

    @asynccontextmanager
    async def _limited(
        self, left: Callable[[], float], on_passed: Callable[[], None]
    ) -> AsyncIterator[asyncio.Timeout]:
        loop = asyncio.get_running_loop()
        timer: asyncio.Handle

        def look() -> None:
            nonlocal timer
            seconds = left()
            if self._over(seconds):
                on_passed()
                scope.reschedule(loop.time())
            else:
                timer = loop.call_later(self._until_look(seconds), look)

        async with asyncio.timeout(None) as scope:
            timer = loop.call_later(self._until_look(left()), look)
            try:
                yield scope
            finally:
                timer.cancel()

    def _over(self, left: float) -> bool:
        return left <= 0 and not self.paused

    def _until_look(self, left: float) -> float:
        """Return when to check again; not too often in a pause just before a limit."""
        least = _LOOK_SECONDS if self.paused else 0.0
        return min(max(left, least), _LONGEST_LOOK_SECONDS)

    def _elapsed(self) -> float:
        with self._lock:
            going = 0.0 if self._open else time.monotonic() - self._since
            return self._spent + going
