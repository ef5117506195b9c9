"""Figures for monitoring: each source is asked within a bound, and may be missing."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import structlog

from celeriac.db import metrics
from celeriac.db.engine import Database
from celeriac.domain.errors import CeleriacError
from celeriac.domain.metrics import DatabaseFigures, DiskFigures, Figures, RedisFigures

logger = structlog.get_logger(__name__)

SOURCE_SECONDS = 2.0
"""How long a source may take; then it is missing."""

_STATEMENT_SECONDS = 1.0
_KEPT_SECONDS = 1.0

T = TypeVar("T")


class _Source(Generic[T]):
    """Asks in a thread of its own, once at a time; an answer is used for a second."""

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self._name = name
        self._ask = ask
        self._thread = ThreadPoolExecutor(1, f"metrics-{name}")
        self._lock = Lock()
        self._asked: Future[T] | None = None
        self._at = 0.0

    def begin(self) -> Future[T]:
        """Ask, unless it was asked within the last second or has not answered yet."""
        with self._lock:
            now = time.monotonic()
            if self._asked is None or (self._asked.done() and now - self._at > _KEPT_SECONDS):
                self._asked, self._at = self._thread.submit(self._ask), now
            return self._asked

    def answer(self, asked: Future[T], until: float) -> T | None:
        """Return the answer, or None if there is none until then."""
        try:
            return asked.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            logger.warning("metrics.source_slow", source=self._name)
        except CeleriacError as error:
            logger.warning("metrics.source_failed", source=self._name, error=str(error))
        return None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Metrics:
    """Reads all figures. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        redis: Callable[[], RedisFigures],
        *,
        directories: Mapping[str, Path],
        queues: Sequence[str],
        alive_seconds: float,
    ) -> None:
        """`queues` have figures in any case; `redis` raises UnavailableError.

        `directories`, by what they are for, are those whose file systems are measured.
        A worker process without a report for `alive_seconds` is gone.
        """

        def ask() -> DatabaseFigures:
            with database.transaction() as connection:
                return metrics.read(
                    connection,
                    queues=queues,
                    alive_seconds=alive_seconds,
                    statement_seconds=_STATEMENT_SECONDS,
                )

        self._database = _Source("database", ask)
        self._redis = _Source("redis", redis)
        self._disks = _Source("disks", lambda: _disks(directories))

    def read(self) -> Figures:
        """Return the figures, in about `SOURCE_SECONDS` at most; None for a missing source."""
        until = time.monotonic() + SOURCE_SECONDS
        database, redis = self._database.begin(), self._redis.begin()
        disks = self._disks.begin()
        return Figures(
            database=self._database.answer(database, until),
            redis=self._redis.answer(redis, until),
            disks=self._disks.answer(disks, until),
        )

    def close(self) -> None:
        """Stop asking."""
        self._database.close()
        self._redis.close()
        self._disks.close()


def _disks(directories: Mapping[str, Path]) -> list[DiskFigures]:
    """Return the space of each directory, or of the nearest one above it that exists."""
    found = []
    for name, directory in directories.items():
        try:
            there = next(each for each in (directory, *directory.parents) if each.exists())
            usage = shutil.disk_usage(there)
        except (OSError, StopIteration) as error:
            logger.warning("metrics.disk_unknown", directory=name, error=str(error))
            continue
        found.append(DiskFigures(directory=name, size_bytes=usage.total, free_bytes=usage.free))
    return found
