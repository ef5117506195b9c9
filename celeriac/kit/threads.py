"""Named thread pools for blocking calls from event loops.

The default executor of a loop is for name resolution and for users' code. Each kind of our own work
has a pool of its own, sized for what it waits for, so that it never waits for the others.
"""

import asyncio
import contextvars
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_this_thread = threading.local()


def in_pool() -> bool:
    """Whether the calling thread belongs to a pool, whose other calls may wait for it."""
    return getattr(_this_thread, "in_pool", False)


class Threads(Executor):
    """At most `size` daemon threads, started when they are needed.

    The standard library's pool joins its threads when the interpreter ends, so that one call that
    hangs keeps the process from ending.
    """

    def __init__(self, name: str, size: int, *, may_wait: bool = False) -> None:
        """`may_wait` says that calls may sleep until the database is back; see `in_pool`."""
        self._name = name
        self._size = size
        self._may_wait = may_wait
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pending: set[Future[Any]] = set()
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._count = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` in a thread; see `concurrent.futures.Executor.submit`.

        Raises RuntimeError after `shutdown`. Raises RuntimeError or MemoryError where the pool has
        no thread and none can be started.
        """
        future: Future[T] = Future()
        with self._starting:
            if self._closed:
                raise RuntimeError(f"The thread pool {self._name} is closed.")
            self._start_one()
            self._pending.add(future)
            future.add_done_callback(self._pending.discard)
            self._calls.put(functools.partial(_call, future, fn, args, kwargs))
        return future

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(…)`, called in a thread with the context variables of the caller."""
        call = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
        return await asyncio.wrap_future(self.submit(call))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of Executor
        """Refuse further calls; with `cancel_futures`, drop those that wait."""
        with self._starting:
            self._closed = True
            pending = list(self._pending)
            for _ in range(self._count):
                self._calls.put(None)
        for future in pending:
            if cancel_futures:
                future.cancel()
            if wait and not future.cancelled():
                future.exception()

    def _start_one(self) -> None:
        """Start a thread for the next call, unless one is idle or the pool is full."""
        if self._idle.acquire(blocking=False) or self._count >= self._size:
            return
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            if self._count == 0:
                raise
        else:
            self._count += 1

    def _work(self) -> None:
        _this_thread.in_pool = not self._may_wait
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                self._idle.release()
                call = self._calls.get()
            if call is None:
                return
            call()
            del call  # an idle thread must not keep references


def _call(
    future: Future[T], fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - raised by `future.result`
        future.set_exception(error)
    else:
        future.set_result(result)


FILES = Threads("files", 8)
"""For reading, copying and removing files, and importing modules."""

PROCESSES = Threads("processes", 4)
"""For starting child processes and reading the table of processes."""

CHECKS = Threads("checks", 4)
"""For checks of schemas, values and templates that are too slow for an event loop."""
