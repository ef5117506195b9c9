"""Coroutines that may do anything: each on an event loop of its own, in a thread of its own."""

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

from celeriac.kit.loop import NO_ROOM, EventLoop, LoopEndedError, LoopTask, not_made

T = TypeVar("T")

_WIND_UP_SECONDS = 0.7
"""How long what a coroutine has left on its loop may take to end."""

_BLOCKED_SECONDS = 1.5
"""After so long it counts as blocking its thread, and nobody waits for it any more."""

_IDLE_THREADS = 64


class _InterruptedError(BaseException):
    """Raised in the thread of a coroutine that was given up, to end it where it can be."""


class OwnLoops:
    """Starts coroutines that share neither a loop nor an executor nor a thread with others.

    Loops are never used again. A thread is, once the coroutine has ended with nothing left on its
    loop: starting one costs more than the loop does.
    """

    def __init__(self, name: str = "agent") -> None:
        """Start nothing yet; threads are called `name`."""
        self._name = name
        self._idle: deque[_Thread] = deque()

    def start(self, work: Coroutine[Any, Any, T]) -> LoopTask[T]:
        """Start a coroutine from any thread, with the caller's context variables.

        Whatever else it has started is cancelled when it ends, and has a second for that. Where its
        loop ends before it, its result is LoopEndedError. One that was given up after a
        cancellation is interrupted as soon as it runs Python code.
        """
        alone = _Alone[T]()
        try:
            thread = self._thread()
        except NO_ROOM as error:
            work.close()
            alone.give_up(not_made(error))
        else:
            thread.take(alone, work)
        return alone

    def _thread(self) -> "_Thread":
        try:
            return self._idle.pop()
        except IndexError:
            return _Thread(self._name, self._idle)

    def close(self) -> None:
        """End the threads that have nothing to do."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().end()


class _Alone(LoopTask[T]):
    """A coroutine with a thread to itself."""

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
        """Run the coroutine to its end in this thread; return whether the thread is as it was.

        Where no event loop can be made its result is LoopEndedError.
        """
        try:
            loop = EventLoop()
        except NO_ROOM as error:
            work.close()
            self.give_up(not_made(error))
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
            self.begin(loop, work)
            self.on_done(done)
            if self._task is not None:
                loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - a callback may raise SystemExit
            cause = error
        if not self._settled:
            self._lose(cause)
        try:
            return loop.wind_up(_WIND_UP_SECONDS)
        finally:
            self.finish()

    def _lose(self, cause: BaseException | None) -> None:
        """Tell those who wait, at once, that the loop has ended before its coroutine."""
        by = f" ({type(cause).__name__})" if cause is not None else ""
        error = LoopEndedError(f"The agent ended its own event loop{by}.")
        error.__cause__ = cause
        self.give_up(error)

    def _interrupt(self) -> None:
        """Have the thread raise as soon as it is back from what it is blocked by."""
        with self._changed:
            if self._thread_id is None or self._interrupted:
                return
            self._interrupted = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(_InterruptedError)
            )


class _Thread:
    """A thread that runs one coroutine after the other."""

    def __init__(self, name: str, idle: "deque[_Thread]") -> None:
        self._idle = idle
        self._inbox: queue.SimpleQueue[
            tuple[_Alone[Any], Coroutine[Any, Any, Any], contextvars.Context] | None
        ] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def take(self, alone: _Alone[T], work: Coroutine[Any, Any, T]) -> None:
        self._inbox.put((alone, work, contextvars.copy_context()))

    def end(self) -> None:
        self._inbox.put(None)

    def _serve(self) -> None:
        with contextlib.suppress(_InterruptedError):  # it came when all was over
            while self._run_next() and len(self._idle) < _IDLE_THREADS:
                self._idle.append(self)

    def _run_next(self) -> bool:
        item = self._inbox.get()
        if item is None:
            return False
        alone, work, context = item
        return context.run(alone.run, work)
