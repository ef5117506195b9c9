"""An event loop that can end everything that was started on it, and be closed by any thread."""

import asyncio
import contextlib
import threading
import time
from asyncio import SubprocessTransport
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakSet

from celeriac.kit.threads import Threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_POLL_SECONDS = 0.02
_USER_THREADS = 8


class EventLoop(asyncio.SelectorEventLoop):
    """An event loop that can end everything that was started on it.

    Made without asyncio's policy, which any code of the process may replace. The default executor
    has daemon threads: some of its own, unless `executor` is given.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        try:
            super().__init__()
        except BaseException:
            # here: the garbage collector would close a loop that has no pipe yet
            self._closed = True
            selector = getattr(self, "_selector", None)
            if selector is not None:
                selector.close()
            raise
        self._executor = executor
        self._own_threads: Threads | None = None
        self._children: WeakSet[SubprocessTransport] = WeakSet()
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._entering = threading.Lock()
        self._entered = 0

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
            # Tasks and callbacks may raise anything.
            with contextlib.suppress(BaseException):
                timer = self.call_later(_POLL_SECONDS, self.stop)
                self.run_forever()
                timer.cancel()


def _close_coroutine(task: asyncio.Task[Any]) -> None:
    """Run the `finally` blocks of a task that is never resumed here, not in the garbage collector.

    The collector may run in any thread, and users' code must not block ours.
    """
    with contextlib.suppress(BaseException):
        coroutine = task.get_coro()
        if coroutine is not None:
            coroutine.close()
