"""Counts plain Celery tasks in memory, and adds the counts to the sums (docs/adr/0071)."""

from collections.abc import Callable, Sequence
from threading import Lock
from uuid import UUID

import structlog

from celeriac.db import plain_tasks
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import LONGEST_NAME, MOST_NAMES, EndCounts, PlainEnd
from celeriac.kit.json_types import storable_text

logger = structlog.get_logger(__name__)

MOST_IDS = 1_000
"""Ids of the tasks that ended last, which a process remembers to count each once."""


class PlainTaskCounts:
    """How many plain tasks of this process run, and how many have ended. Safe between threads.

    Create one in each process: a lock that is held while a process forks stays locked in its child.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[str, EndCounts] = {}
        self._batch: dict[str, EndCounts] = {}
        self._number = 0
        self._running = 0
        self._ids: dict[str, None] = {}  # in the order of their ends

    @property
    def running(self) -> int:
        """How many run now."""
        return max(self._running, 0)

    def began(self) -> None:
        """Count a task that begins."""
        with self._lock:
            self._running += 1

    def left(self) -> None:
        """Count a task that does not run any more, whatever its state."""
        with self._lock:
            self._running -= 1

    def sent_again(self, task_id: str) -> None:
        """Count the next end of a task too: somebody sent another one with the same id."""
        with self._lock:
            self._ids.pop(task_id, None)

    def ended(self, name: str, end: PlainEnd, task_id: str) -> None:
        """Count the end of a task, unless it is among the MOST_IDS that ended last."""
        with self._lock:
            if task_id in self._ids:
                return
            self._ids[task_id] = None
            if len(self._ids) > MOST_IDS:
                del self._ids[next(iter(self._ids))]
            if name not in self._counts and len(self._counts) >= MOST_NAMES:
                name = OTHER
            self._counts.setdefault(name, EndCounts()).add(end)

    def store(self, database: Database, worker_id: Callable[[], UUID | None]) -> bool:
        """Add what has ended to the sums, in one statement if there is any.

        Returns whether all is stored. Otherwise the same batch is sent again by the next call, and
        is not added twice. `worker_id` is None in a process without a row in `workers`. Belongs to
        one thread at a time.
        """
        with self._lock:
            if not self._batch:
                self._batch, self._counts = self._counts, {}
                self._number += bool(self._batch)
        if not self._batch:
            return True
        try:
            with database.autocommit() as connection:
                added = plain_tasks.add(
                    connection, worker_id(), batch=self._number, counts=_storable(self._batch)
                )
        except DatabaseUnavailableError as error:
            logger.warning("plain_tasks.not_stored", code=error.code, error=error.message)
            return False
        if added:
            self._batch = {}
        return added


def none_run(database: Database, hostname: str, pids: Sequence[int]) -> bool:
    """Record that no plain task runs in processes of a worker, which have ended.

    Returns whether that is stored.
    """
    try:
        with database.autocommit() as connection:
            plain_tasks.none_run(connection, hostname, pids)
    except DatabaseUnavailableError as error:
        logger.warning("plain_tasks.not_stored", code=error.code, error=error.message)
        return False
    return True


def _storable(counts: dict[str, EndCounts]) -> dict[str, EndCounts]:
    """Return the counts by names as the database takes them."""
    found: dict[str, EndCounts] = {}
    for name, each in counts.items():
        sums = found.setdefault(storable_text(name)[:LONGEST_NAME], EndCounts())
        sums.completed += each.completed
        sums.failed += each.failed
        sums.cancelled += each.cancelled
    return found
