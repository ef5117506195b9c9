"""An asyncio event loop on a thread of its own, for programs whose other threads block."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_ALIVE_SECONDS = 1.0


class LeftBehindError(Exception):
    """A coroutine was cancelled and did not end within its grace time."""


class Running(Generic[T]):
    """A coroutine on the loop, seen from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to `loop`; `LoopThread.start` makes these."""
        self._loop = loop
        self._future: Future[T] = Future()
        self._task: asyncio.Task[T] | None = None
        self._cancelled_early = False

    def begin(self, work: Coroutine[Any, Any, T]) -> None:
        """Start the coroutine; called once, on the loop's thread."""
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._done)
        if self._cancelled_early:
            self._task.cancel()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the coroutine has ended, at most `seconds`; return whether it has."""
        return bool(wait_for([self._future], timeout=seconds).done)

    def result(self) -> T:
        """Return what the ended coroutine returned, or raise what it raised.

        Raises `asyncio.CancelledError` where it was cancelled and LeftBehindError where it did not
        heed that in time.
        """
        return self._future.result()

    def cancel(self, grace_seconds: float) -> None:
        """Cancel the coroutine from any thread; it has `grace_seconds` to end itself."""
        self._loop.call_soon_threadsafe(self._cancel, grace_seconds)

    def abandon(self) -> None:
        """Stop waiting for the coroutine, whatever it still does; `result` raises from now on."""
        if not self._future.done():
            self._future.set_exception(LeftBehindError("The work did not end when told to."))

    def _cancel(self, grace_seconds: float) -> None:
        if self._task is None:
            self._cancelled_early = True
        else:
            self._task.cancel()
        self._loop.call_later(grace_seconds, self.abandon)

    def _done(self, task: asyncio.Task[T]) -> None:
        if self._future.done():
            return
        if task.cancelled():
            self._future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())


class LoopThread:
    """Runs one event loop on a daemon thread from `__init__` until `close`."""

    def __init__(self, name: str = "agents") -> None:
        """Start the loop; make it after a fork, never before."""
        self._name = name
        self._renewing = threading.Lock()
        self.loop, self._thread = self._begin()

    def start(self, work: Coroutine[Any, Any, T]) -> Running[T]:
        """Start a coroutine from any thread."""
        running: Running[T] = Running(self.loop)
        self.loop.call_soon_threadsafe(running.begin, work)
        return running

    def renew(self) -> bool:
        """Go on with a new loop where the present one is held up; return whether it was.

        A coroutine that blocks its thread can't be stopped. It and all others on its loop are left
        to themselves; should it ever let go, they go on.
        """
        with self._renewing:
            alive = threading.Event()
            self.loop.call_soon_threadsafe(alive.set)
            if alive.wait(_ALIVE_SECONDS):
                return False
            self.loop, self._thread = self._begin()
            return True

    def close(self, seconds: float = 5.0) -> None:
        """Cancel what still runs, wait for it at most `seconds`, and end the loop."""
        ending = self.start(_end_all())
        ending.wait(seconds)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self.loop.close()

    def _begin(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
        thread.start()
        return loop, thread


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
