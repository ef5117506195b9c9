"""Runs untrusted coroutines, each on an event loop and in a thread of its own."""

import asyncio
import contextlib
import contextvars
import ctypes
import queue
import sys
import threading
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from celeriac.kit.event_loop import CANT_WAIT, EventLoop
from celeriac.kit.loop import START_ERRORS, LoopEndedError, LoopTask, not_started

T = TypeVar("T")

_WIND_UP_SECONDS = 0.7
"""Seconds in which the tasks that a coroutine left on its loop must end."""

_BLOCKED_SECONDS = 1.5
"""Seconds after which it counts as blocking its thread and is no longer waited for."""

_IDLE_THREADS = 64


class _InterruptedError(BaseException):
    """Raised in the thread of an abandoned coroutine, to end it if possible."""


class OwnLoops:
    """Starts coroutines that share no loop, executor or thread.

    A loop is used once. A thread is used again when its coroutine left nothing on the loop:
    starting a thread costs more than making a loop.
    """

    def __init__(self, name: str = "agent") -> None:
        self._name = name
        self._idle: deque[_Thread] = deque()

    def start(self, work: Coroutine[Any, Any, T]) -> LoopTask[T]:
        """Start a coroutine from any thread, with the context variables of the caller.

        When it ends, all other tasks on its loop are cancelled; they have 0.7 s to end. If its loop
        ends first, its result is LoopEndedError. A coroutine that was abandoned after a
        cancellation is interrupted as soon as it runs Python code.
        """
        task = _OwnTask[T]()
        try:
            thread = self._thread()
        except START_ERRORS as error:
            return task.refuse(work, not_started(error))
        thread.take(task, work)
        return task

    def _thread(self) -> "_Thread":
        try:
            return self._idle.pop()
        except IndexError:
            return _Thread(self._name, self._idle)

    def close(self) -> None:
        """End the idle threads."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().end()


class _OwnTask(LoopTask[T]):
    """A coroutine in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._thread_id: int | None = None
        self._interrupted = False

    def wait(self, seconds: float = float("inf")) -> bool:
        ended = super().wait(seconds)
        if self._overdue:
            self._interrupt()
        return ended

    def run(self, work: Coroutine[Any, Any, T]) -> bool:
        """Run the coroutine to its end in this thread; return whether the thread can be used again.

        Where no event loop can be made, the result of the coroutine is LoopEndedError.
        """
        try:
            loop = EventLoop()
        except START_ERRORS as error:
            self.refuse(work, not_started(error))
            return True
        self._thread_id = threading.get_ident()
        hooks = sys.gettrace(), sys.getprofile()
        clean = False
        try:
            clean = self._run(loop, work)
        finally:
            self.give_up(LoopEndedError("The event loop could not be run."))
            with self._changed:
                self._thread_id = None
        return clean and not self._interrupted and hooks == (sys.gettrace(), sys.getprofile())

    def _run(self, loop: EventLoop, work: Coroutine[Any, Any, T]) -> bool:
        def done(task: "asyncio.Task[T]") -> None:
            self.settle(task, within=_BLOCKED_SECONDS)
            loop.stop()

        cause: BaseException | None = None
        try:
            self.begin(loop, work, done)
            if self._task is not None:
                loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - a callback may raise SystemExit
            cause = error
        if not self._settled:
            self.give_up(_ended(cause))
        try:
            return loop.wind_up(_WIND_UP_SECONDS)
        finally:
            self.finish()

    def _interrupt(self) -> None:
        """Raise in the thread as soon as it runs Python code again."""
        with self._changed:
            if self._thread_id is None or self._interrupted:
                return
            self._interrupted = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(_InterruptedError)
            )


def _ended(cause: BaseException | None) -> LoopEndedError:
    if isinstance(cause, CANT_WAIT):
        return LoopEndedError(f"The event loop could not wait: {cause}.", cause)
    by = f" ({type(cause).__name__})" if cause is not None else ""
    return LoopEndedError(f"The agent ended its own event loop{by}.", cause)


class _Thread:
    """A thread that runs coroutines one after the other."""

    def __init__(self, name: str, idle: "deque[_Thread]") -> None:
        self._idle = idle
        self._inbox: queue.SimpleQueue[
            tuple[_OwnTask[Any], Coroutine[Any, Any, Any], contextvars.Context] | None
        ] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def take(self, task: _OwnTask[T], work: Coroutine[Any, Any, T]) -> None:
        self._inbox.put((task, work, contextvars.copy_context()))

    def end(self) -> None:
        self._inbox.put(None)

    def _serve(self) -> None:
        with contextlib.suppress(_InterruptedError):  # it came after the end of the coroutine
            while self._run_next() and len(self._idle) < _IDLE_THREADS:
                self._idle.append(self)

    def _run_next(self) -> bool:
        item = self._inbox.get()
        if item is None:
            return False
        task, work, context = item
        return context.run(task.run, work)
