"""The time limits of one attempt, which stand still while it waits for a person."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from celeriac.domain.tasks import Limits

_LOOK_SECONDS = 0.25
"""How late a limit may be noticed that is reached shortly after the waiting has ended."""

_LONGEST_LOOK_SECONDS = 3_600.0


class TimeLimits:
    """The soft and the hard limit of an attempt, in seconds of its own time.

    That time stands still while at least one question to a person is open. Safe to use from any
    thread and any event loop.
    """

    def __init__(self) -> None:
        """There are no limits until `begin`."""
        self.soft_passed = False
        """Whether the agent was told that its soft limit has passed."""
        self._lock = threading.Lock()
        self._soft = self._hard = math.inf
        self._spent = 0.0
        self._since = time.monotonic()
        self._open = 0

    def begin(self, limits: Limits) -> None:
        """Count from now on."""
        with self._lock:
            self._soft, self._hard = limits.soft_seconds, limits.hard_seconds
            self._spent, self._since = 0.0, time.monotonic()
            self.soft_passed = False

    def stand_still(self) -> Callable[[], None]:
        """Stop the time; return what lets it go on, which may be called more than once.

        It goes on when all who have stopped it have let it go on.
        """
        with self._lock:
            if self._open == 0:
                self._spent += time.monotonic() - self._since
            self._open += 1
        done = False

        def go_on() -> None:
            nonlocal done
            with self._lock:
                if done:
                    return
                done = True
                self._open -= 1
                if self._open == 0:
                    self._since = time.monotonic()

        return go_on

    @property
    def stands_still(self) -> bool:
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
        """The hard limit in `time.monotonic()` seconds, should the time go on from now."""
        return time.monotonic() + self.hard_left

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
        return left <= 0 and not self.stands_still

    def _until_look(self, left: float) -> float:
        """Return when to look again: not often while the time stands still just before a limit."""
        least = _LOOK_SECONDS if self.stands_still else 0.0
        return min(max(left, least), _LONGEST_LOOK_SECONDS)

    def _elapsed(self) -> float:
        with self._lock:
            going = 0.0 if self._open else time.monotonic() - self._since
            return self._spent + going
