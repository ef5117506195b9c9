"""Event loops on threads of their own, for programs whose other threads block.

`LoopThread` runs hundreds of trusted coroutines at once. When its loop ends, for whatever reason,
its coroutines end with LoopEndedError and another loop takes its place. `celeriac.kit.own_loops` is
for untrusted coroutines.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Self, TypeVar

from celeriac.kit.event_loop import EventLoop
from celeriac.kit.threads import Threads

T = TypeVar("T")

_ALIVE_SECONDS = 2.0
_WIND_UP_SECONDS = 5.0
START_ERRORS = (RuntimeError, OSError, MemoryError)
"""Raised by making an event loop without a thread, descriptor or memory for it."""

_RESOLVING_THREADS = 16


class AbandonedError(Exception):
    """A coroutine was cancelled and did not end within its grace time."""


class LoopEndedError(Exception):
    """The event loop ended before the coroutine; `__cause__` is the reason, if known."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.__cause__ = cause


class LoopTask(Generic[T]):
    """A coroutine on a loop, for use by other threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: T
        self._error: BaseException | None = None
        self._settled = False
        self._ended = False
        self._overdue = False
        self._until = math.inf
        """The latest time until which `wait` waits: after a cancellation, and after the end."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        self._on_end: Callable[[], object] | None = None

    # from other threads

    def on_end(self, call: Callable[[], object]) -> None:
        """Call `call` once when `wait` would return true, at once if it would now.

        A coroutine that does not end in time after its cancellation ends by a call of `wait`; see
        `is_overdue`. `call` must return at once: the loop's thread may call it.
        """
        with self._changed:
            if not self._ended:
                self._on_end = call
                return
        call()

    @property
    def is_overdue(self) -> bool:
        """Whether it had to end by now, so that `wait` returns true at once."""
        return time.monotonic() >= self._until

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait up to `seconds` until the coroutine has ended; return whether it has."""
        deadline = time.monotonic() + seconds
        on_end = None
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                if now >= self._until:
                    self._settle(
                        error=AbandonedError("The coroutine did not end after its cancellation.")
                    )
                    self._overdue = True
                    on_end = self._end()
                elif now >= deadline:
                    return False
                else:
                    left = min(deadline, self._until) - now
                    self._changed.wait(None if left == math.inf else left)
        if on_end is not None:
            on_end()
        return True

    def result(self) -> T:
        """Wait, then return what the coroutine returned, or raise what it raised.

        Raises `asyncio.CancelledError` where it was cancelled, AbandonedError where it did not end
        in time after that, and LoopEndedError where its loop ended before it.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def cancel(self, grace_seconds: float) -> None:
        """Cancel the coroutine, at most once; it has `grace_seconds` to end."""
        with self._changed:
            self._until = min(self._until, time.monotonic() + grace_seconds)
            self._changed.notify_all()
            first, self._cancelled = not self._cancelled, True
            loop, task = self._loop, self._task
        if first and loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(task.cancel)

    def give_up(self, error: BaseException) -> None:
        """Make `error` its result unless it has ended. The coroutine itself may still run."""
        with self._changed:
            self._settle(error=error)
            on_end = self._end()
        if on_end is not None:
            on_end()

    def refuse(self, work: Coroutine[Any, Any, T], error: BaseException) -> Self:
        """Close a coroutine that can't be started, and make `error` its result; return self."""
        work.close()
        self.give_up(error)
        return self

    # from the loop's own thread

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T],
        done: Callable[["asyncio.Task[T]"], object],
    ) -> None:
        """Start the coroutine on `loop`, unless `give_up` was called; call `done` at its end."""
        with self._changed:
            if self._ended:
                work.close()
                return
            self._loop = loop
            self._task = loop.create_task(work)
            if self._cancelled:
                self._task.cancel()
        self._task.add_done_callback(done)

    def settle(self, task: "asyncio.Task[T]", *, within: float = 0.0) -> None:
        """Store the result of the task; `wait` returns after `finish`, or `within` seconds."""
        with self._changed:
            if task.cancelled():
                self._settle(error=asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                self._settle(error=error)
            elif not self._settled:
                self._settled, self._value = True, task.result()
            self._until = min(self._until, time.monotonic() + within)
            self._changed.notify_all()

    def finish(self) -> None:
        """End all calls of `wait`."""
        with self._changed:
            on_end = self._end()
        if on_end is not None:
            on_end()

    def _end(self) -> Callable[[], object] | None:
        """Mark it as ended; return what is to be called then. Needs the lock."""
        self._ended = True
        self._changed.notify_all()
        on_end, self._on_end = self._on_end, None
        return on_end

    def _settle(self, *, error: BaseException) -> None:
        if not self._settled:
            self._settled, self._error = True, error


class _Host:
    """A loop on its thread, and the coroutines on it."""

    def __init__(self, resolving: Threads) -> None:
        self.loop = EventLoop(resolving)
        self.running: set[LoopTask[Any]] = set()
        self.over = False


class LoopThread:
    """Runs an event loop on a daemon thread until `close`, and replaces one that ends."""

    def __init__(self, name: str = "agents") -> None:
        """Start the loop. Call this after a fork, never before."""
        self._name = name
        self._changing = threading.Lock()
        self._closing = False
        self._resolving = Threads(f"{name}: name resolution", _RESOLVING_THREADS)
        self._host, self._thread = self._begin()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The present loop."""
        return self._host.loop

    def start(self, work: Coroutine[Any, Any, T]) -> LoopTask[T]:
        """Start a coroutine from any thread."""
        running: LoopTask[T] = LoopTask()
        with self._changing:
            if self._host.over and not self._closing:
                try:
                    self._host, self._thread = self._begin()
                except START_ERRORS as error:
                    return running.refuse(work, not_started(error))
            host = self._host
            if self._closing:
                return running.refuse(work, LoopEndedError("The event loop is closed."))
            host.running.add(running)

        def begin() -> None:
            try:
                running.begin(host.loop, work, done)
            except BaseException as error:
                host.running.discard(running)
                running.refuse(work, error)
                raise

        def done(task: "asyncio.Task[T]") -> None:
            host.running.discard(running)
            running.settle(task)
            running.finish()

        try:
            host.loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop was closed a moment ago
            running.refuse(work, LoopEndedError("The event loop is closed."))
        return running

    def renew(self) -> bool:
        """Replace a loop whose thread is blocked; return whether it was.

        Its coroutines end with LoopEndedError. Code that blocks a thread can't be stopped; when it
        returns, the rest of the loop is cancelled.
        """
        host, alive = self._host, threading.Event()
        with contextlib.suppress(RuntimeError):
            host.loop.call_soon_threadsafe(alive.set)
            if not alive.wait(_ALIVE_SECONDS):
                self._replace(host, LoopEndedError("The event loop was held up."))
                host.loop.call_soon_threadsafe(host.loop.stop)
                return True
        return False

    def close(self, seconds: float = 5.0) -> None:
        """Cancel all coroutines, wait for them up to `seconds`, and end the loop."""
        with self._changing:
            self._closing = True
            host, thread = self._host, self._thread
        with contextlib.suppress(RuntimeError):
            host.loop.call_soon_threadsafe(host.loop.stop)
        thread.join(seconds)
        self._resolving.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> tuple[_Host, threading.Thread]:
        host = _Host(self._resolving)
        try:
            host.loop.open()
            thread = threading.Thread(target=self._live, args=(host,), name=self._name, daemon=True)
            thread.start()
        except START_ERRORS:
            host.loop.close()
            raise
        return host, thread

    def _live(self, host: _Host) -> None:
        """Run a loop until it ends, for whatever reason, then replace it."""
        cause: BaseException | None = None
        try:
            host.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - a callback may raise SystemExit
            cause = error
        ended = LoopEndedError(f"The event loop ended{_because(cause)}.", cause)
        try:
            if not self._closing:
                self._replace(host, ended)
            host.loop.wind_up(_WIND_UP_SECONDS)
        finally:
            self._end_all(host, ended)

    def _replace(self, host: _Host, reason: LoopEndedError) -> None:
        try:
            with self._changing:
                replaces, host.over = not host.over and not self._closing, True
                if replaces:
                    with contextlib.suppress(*START_ERRORS):  # `start` tries again
                        self._host, self._thread = self._begin()
        finally:
            self._end_all(host, reason)

    def _end_all(self, host: _Host, reason: LoopEndedError) -> None:
        for running in list(host.running):
            running.give_up(reason)


def not_started(error: BaseException) -> LoopEndedError:
    """Return the error of a coroutine for which no event loop can be made."""
    return LoopEndedError(f"No event loop can be made now{_because(error)}.", error)


def _because(cause: BaseException | None) -> str:
    if cause is None:
        return ""
    try:
        return f": {cause!r}"
    except Exception:  # noqa: BLE001 - the class may be a user's
        return f": {type(cause).__name__}"


async def run_shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run all of `work`, then raise a cancellation that arrived meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - raised by `result` below
            break
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
