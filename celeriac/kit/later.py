"""Calls that are made later: one thread waits for all of them."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

import structlog

logger = structlog.get_logger(__name__)


class Later:
    """Makes calls after a pause, on one daemon thread that is started when it is needed.

    For calls that return at once: one that takes long holds up all others.
    """

    def __init__(self, name: str) -> None:
        """Start nothing yet; the thread is called `name`."""
        self._name = name
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, work: Callable[[], object]) -> None:
        """Call `work` in `seconds`. Raises RuntimeError where no thread can be started."""
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
            except Exception:  # the thread makes the calls of others as well
                logger.exception("later.call_failed", thread=self._name)

    def _next(self) -> Callable[[], object]:
        """Wait for the next call that is due."""
        with self._changed:
            while True:
                seconds = self._calls[0][0] - time.monotonic() if self._calls else None
                if seconds is not None and seconds <= 0:
                    return heapq.heappop(self._calls)[2]
                self._changed.wait(seconds)
