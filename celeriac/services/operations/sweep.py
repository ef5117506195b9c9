"""Removes old files from a worker's home: one process of a home at a time, now and then."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import structlog

from celeriac.kit.locks import locked_alone
from celeriac.services.operations.home_files import HomeFiles, run_step

logger = structlog.get_logger(__name__)

_EVERY_SECONDS = 3_600.0
_FIRST_SECONDS = 300.0
_SPREAD = (0.5, 1.0)
_REST_SECONDS = 0.2
"""The pause after each batch: agents need the disk and the database more."""

_LONGEST_ROUND = 600.0

OpenFiles = Callable[[Callable[[], bool]], AbstractContextManager[HomeFiles]]
"""Gives the files of the home for one round; it is given what they call after each batch."""


class Sweep:
    """Sweeps one home in a thread.

    Workers of a home share its lock file, whose time is the end of the last round.
    """

    def __init__(
        self,
        open_files: OpenFiles,
        lock: Path,
        *,
        first: float = _FIRST_SECONDS,
        every: float = _EVERY_SECONDS,
    ) -> None:
        """Sweep at most `first` seconds after the start, and `every` seconds after each round.

        The times are random, at least half as long, so that workers of many machines spread.
        """
        self._open_files = open_files
        self._lock = lock
        self._first = first
        self._every = every
        self._until = 0.0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread after the batch that it removes, without waiting for it."""
        self._stopped.set()

    def __call__(self) -> int | None:
        """Remove what is old; return how much, None if another process does or has just done so.

        A round that takes long ends; the next one continues. Raises OSError if the lock file can't
        be used.
        """
        if not self._lock.parent.is_dir():
            return 0  # nothing has run here
        with self._alone() as lock:
            if lock is None:
                return None
            self._until = time.monotonic() + _LONGEST_ROUND
            with self._open_files(self._rest) as files:
                removed = 0
                for kind, step in files.steps():
                    if not self._stopped.is_set():
                        removed += run_step(kind, step)
            if not self._stopped.is_set():
                os.pwrite(lock, b"\n", 0)
                os.utime(lock)
            return removed

    def _run(self) -> None:
        pause = self._first
        while not self._stopped.wait(pause * random.uniform(*_SPREAD)):
            pause = self._every
            try:
                self()
            except Exception:
                logger.exception("worker.thread_failed", thread="sweep")

    def _rest(self) -> bool:
        """Pause; return whether the step must end."""
        return self._stopped.wait(_REST_SECONDS) or time.monotonic() > self._until

    @contextmanager
    def _alone(self) -> Iterator[int | None]:
        """Hold the lock; yield None if another process does, or a round was not long ago."""
        with locked_alone(self._lock, os.O_RDWR | os.O_CREAT) as lock:
            yield None if lock is None or not self._is_due(os.fstat(lock)) else lock

    def _is_due(self, lock: os.stat_result) -> bool:
        # it is empty before the first round has ended; a time in the future is of a wrong clock
        return not lock.st_size or abs(time.time() - lock.st_mtime) >= self._every * _SPREAD[0]
