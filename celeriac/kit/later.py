"""Delayed calls, made by one thread."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

import structlog

logger = structlog.get_logger(__name__)


class Later:
    """Makes delayed calls on one daemon thread, started when it is needed.

    For calls that return at once: a slow one delays all others.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, work: Callable[[], object]) -> None:
        """Call `work` after `seconds`. Raises RuntimeError where no thread can be started."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            due = time.monotonic() + seconds
            heapq.heappush(self._calls, (due, next(self._numbers), work))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            work = self._next()
            try:
                work()
            except Exception:  # the thread must make the other calls
                logger.exception("later.call_failed", thread=self._name)

    def _next(self) -> Callable[[], object]:
        """Wait for the next call that is due."""
        with self._changed:
            while True:
                seconds = self._calls[0][0] - time.monotonic() if self._calls else None
                if seconds is not None and seconds <= 0:
                    return heapq.heappop(self._calls)[2]
                self._changed.wait(seconds)
