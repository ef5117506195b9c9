"""An event loop that can end everything that was started on it, and be closed by any thread."""

import asyncio
import contextlib
import selectors
import socket
import threading
import time
from asyncio import SubprocessTransport
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakSet

from celeriac.kit.threads import Threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CANT_WAIT = (OSError, MemoryError)
"""Raised by `run_forever` without a descriptor or memory to wait with; an `Exception` of a callback
never leaves it."""

_POLL_SECONDS = 0.02
_USER_THREADS = 8


class _LateSelector(selectors.BaseSelector):
    """The default selector, opened when something is registered or waited for.

    Calls `before_wait` before the first wait, in the thread that will wait; it may register files.
    """

    def __init__(self, before_wait: Callable[[], None]) -> None:
        self._before_wait = before_wait
        self._opened: selectors.BaseSelector | None = None
        self._closed = False

    def _real(self) -> selectors.BaseSelector:
        if self._opened is None:
            if self._closed:
                raise RuntimeError("The selector is closed.")
            self._opened = selectors.DefaultSelector()
        return self._opened

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real().register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real().unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real().modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._before_wait()
        elif self._opened is None:
            return []
        return self._real().select(timeout)

    def close(self) -> None:
        self._closed = True
        if self._opened is not None:
            self._opened.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real().get_map()


class EventLoop(asyncio.SelectorEventLoop):
    """An event loop that can end everything that was started on it.

    Made without asyncio's policy, which any code of the process may replace. The default executor
    has daemon threads: some of its own, unless `executor` is given.

    Its descriptors are opened when it first waits: a coroutine that waits for nothing needs none,
    and to open and close them costs more than to run it (ADR 15). The methods of the pipe are
    asyncio's own, with the same names in 3.11 to 3.14.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._ssock: socket.socket | None = None
        self._csock: socket.socket | None = None
        # reentrant: the garbage collector may call callbacks meanwhile, which wake the loop
        self._waking = threading.RLock()
        self._woken = False
        super().__init__(_LateSelector(self.open))
        self._executor = executor
        self._own_threads: Threads | None = None
        self._children: WeakSet[SubprocessTransport] = WeakSet()
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._entering = threading.Lock()
        self._entered = 0

    def _make_self_pipe(self) -> None:
        """Leave it to the first wait."""

    def open(self) -> None:
        """Open the descriptors now.

        Raises:
            OSError: there is no descriptor or memory for them.
        """
        with self._waking:
            if self._csock is not None:
                return
            try:
                super()._make_self_pipe()  # type: ignore[misc]
            except BaseException:
                for end in (self._ssock, self._csock):
                    if end is not None:
                        end.close()
                self._ssock = self._csock = None
                raise
            if self._woken:
                self._write_to_pipe()

    def _write_to_self(self) -> None:
        # from any thread: a loop that has not waited yet sees its callbacks before it does
        with self._waking:
            self._woken = True
            if self._csock is not None:
                self._write_to_pipe()

    def _write_to_pipe(self) -> None:
        super()._write_to_self()  # type: ignore[misc]

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """See `asyncio.loop.add_signal_handler`."""
        self.open()
        super().add_signal_handler(sig, callback, *args)

    def run_forever(self) -> None:
        """See `asyncio.loop.run_forever`."""
        entered = False
        try:
            with self._entering:
                self._entered += 1
                entered = True
            super().run_forever()
        finally:
            if entered:
                self._entered -= 1

    def close(self) -> None:
        """See `asyncio.loop.close`.

        Another thread can't enter the loop meanwhile: asyncio would leave a loop that is half
        closed, and can't be closed any more.
        """
        with self._entering:
            if self._entered:
                raise RuntimeError("A running event loop can't be closed.")
            super().close()

    def create_task(self, coro: Any, **options: Any) -> Any:
        """See `asyncio.loop.create_task`."""
        task = super().create_task(coro, **options)
        self._tasks.add(task)
        return task

    def set_default_executor(self, executor: Executor) -> None:
        """Use `executor`, which is not shut down with the loop: others may use it."""
        self._executor = executor

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """See `asyncio.loop.run_in_executor`."""
        if executor is None:
            if self._executor is None:
                self._executor = self._own_threads = Threads("agent's executor", _USER_THREADS)
            executor = self._executor
        return super().run_in_executor(executor, func, *args)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """See `asyncio.loop.subprocess_exec`."""
        return self._noted(await super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """See `asyncio.loop.subprocess_shell`."""
        return self._noted(await super().subprocess_shell(*args, **kwargs))

    def _noted(self, started: tuple[SubprocessTransport, Any]) -> tuple[SubprocessTransport, Any]:
        self._children.add(started[0])
        return started

    def wind_up(self, seconds: float) -> bool:
        """End everything that is left on this stopped loop, and close it.

        Cancels tasks, closes async generators and kills child processes, within `seconds` unless
        their code blocks. Tasks that have not ended by then never run again. Returns whether
        nothing was left.
        """
        try:
            clean = not self.is_closed() and not self._unfinished()
            if not clean:
                self._end_unfinished(time.monotonic() + seconds)
        finally:
            if self._own_threads is not None:
                self._own_threads.shutdown(wait=False, cancel_futures=True)
            self.close()
        return clean

    def _end_unfinished(self, until: float) -> None:
        self.set_task_factory(None)
        self.set_exception_handler(None)
        self.set_debug(enabled=False)
        # Tasks and transports may be of users' classes, and raise anything.
        for end in (self._cancel_all, self._close_generators):
            with contextlib.suppress(BaseException):
                end(until)
        for task in asyncio.all_tasks(self):
            _close_coroutine(task)

    def _unfinished(self) -> bool:
        # `all_tasks` reads the tasks of all loops, which is too slow for each of hundreds of
        # attempts
        tasks = any(not task.done() for task in self._tasks)
        return bool(tasks or self._running_children() or self._generators())

    def _running_children(self) -> list[SubprocessTransport]:
        return [child for child in self._children if child.get_returncode() is None]

    def _generators(self) -> int:
        # Closing none costs as much as the rest of an attempt; there is no public API to count
        # them.
        return len(getattr(self, "_asyncgens", "unknown"))

    def _cancel_all(self, until: float) -> None:
        cancelled: set[asyncio.Task[Any]] = set()

        def left() -> bool:
            tasks = asyncio.all_tasks(self)
            for task in tasks - cancelled:
                with contextlib.suppress(BaseException):
                    task.cancel()
            cancelled.update(tasks)
            return bool(tasks or self._running_children())

        for child in self._running_children():
            with contextlib.suppress(BaseException):
                child.close()  # kills it
        self._run_while(left, until)

    def _close_generators(self, until: float) -> None:
        if self._generators() and not self.is_closed():
            closing = self.create_task(self.shutdown_asyncgens())
            self._run_while(lambda: not closing.done(), until)

    def _run_while(self, condition: Callable[[], bool], until: float) -> None:
        while condition() and time.monotonic() < until and not self.is_closed():
            timer = self.call_later(_POLL_SECONDS, self.stop)
            try:
                self.run_forever()
            except CANT_WAIT:
                return
            except BaseException:  # noqa: BLE001, S110 - tasks and callbacks may raise anything
                pass
            timer.cancel()


def _close_coroutine(task: asyncio.Task[Any]) -> None:
    """Run the `finally` blocks of a task that is never resumed here, not in the garbage collector.

    The collector may run in any thread, and users' code must not block ours.
    """
    with contextlib.suppress(BaseException):
        coroutine = task.get_coro()
        if coroutine is not None:
            coroutine.close()
