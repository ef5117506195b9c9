"""Counts plain Celery tasks in memory, and stores counts and recent runs (docs/adr/0071)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock
from uuid import UUID

import structlog

from celeriac.db import plain_tasks
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import (
    LONGEST_NAME,
    MOST_NAMES,
    MOST_RUNS_OF_BATCH,
    EndCounts,
    PlainEnd,
    PlainRun,
)
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import storable_text
from celeriac.logs.redact import clip

logger = structlog.get_logger(__name__)

MOST_IDS = 1_000
"""Ids of the tasks that ended last, which a process remembers to count each once."""

_LONGEST_ID = 255
"""Of a task, as Celery's own tables of results have it."""


class PlainTaskCounts:
    """What plain tasks run in this process, and how many have ended. Safe between threads.

    Create one in each process: a lock that is held while a process forks stays locked in its child.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[str, EndCounts] = {}
        self._batch: dict[str, EndCounts] = {}
        self._number = 0
        self._running = 0
        self._ids: dict[str, None] = {}  # in the order of their ends
        self._runs: dict[str, PlainRun] = {}  # those that run
        self._changed: dict[str, PlainRun] = {}  # not stored yet, in the order of their changes
        self._runs_of_batch: list[PlainRun] = []

    @property
    def running(self) -> int:
        """How many run now."""
        return max(self._running, 0)

    def began(self, name: str, task_id: str, queue: str | None) -> None:
        """Count a task that begins."""
        with self._lock:
            self._running += 1
            self._runs[task_id] = _run(name, task_id, queue, begins=True)
            self._note(task_id, self._runs[task_id])

    def left(self, task_id: str) -> None:
        """Count a task that does not run any more, whatever its state."""
        with self._lock:
            self._running -= 1
            self._runs.pop(task_id, None)

    def sent_again(self, task_id: str) -> None:
        """Count the next end of a task too: somebody sent another one with the same id."""
        with self._lock:
            self._ids.pop(task_id, None)

    def ended(
        self,
        name: str,
        end: PlainEnd,
        task_id: str,
        queue: str | None = None,
        error: str | None = None,
    ) -> None:
        """Count the end of a task, unless it is among the MOST_IDS that ended last."""
        with self._lock:
            if task_id in self._ids:
                return
            self._ids[task_id] = None
            if len(self._ids) > MOST_IDS:
                del self._ids[next(iter(self._ids))]
            run = self._runs.pop(task_id, None) or _run(name, task_id, queue, begins=False)
            self._note(
                task_id,
                replace(
                    run,
                    status=SimpleStatus(end.value),
                    changed_at=datetime.now(UTC),
                    error_message=None if error is None else storable_text(clip(error)),
                ),
            )
            if name not in self._counts and len(self._counts) >= MOST_NAMES:
                name = OTHER
            self._counts.setdefault(name, EndCounts()).add(end)

    def _note(self, task_id: str, run: PlainRun) -> None:
        self._changed.pop(task_id, None)
        self._changed[task_id] = run
        if len(self._changed) > MOST_RUNS_OF_BATCH:
            del self._changed[next(iter(self._changed))]

    def store(
        self, database: Database, worker_id: Callable[[], UUID | None], *, hostname: str
    ) -> bool:
        """Add what has ended to the sums, and store what runs, in one statement if there is any.

        Returns whether all is stored. Otherwise the same batch is sent again by the next call, and
        is not added twice. `worker_id` is None in a process without a row in `workers`. `hostname`
        is the name of the worker. Belongs to one thread at a time.
        """
        with self._lock:
            if not self._batch and not self._runs_of_batch:
                self._batch, self._counts = self._counts, {}
                by_id = {each.task_id: each for each in self._changed.values()}
                self._runs_of_batch, self._changed = list(by_id.values()), {}
                self._number += bool(self._batch or self._runs_of_batch)
        if not self._batch and not self._runs_of_batch:
            return True
        try:
            with database.autocommit() as connection:
                added = plain_tasks.add(
                    connection,
                    worker_id(),
                    batch=self._number,
                    counts=_storable(self._batch),
                    hostname=hostname,
                    runs=self._runs_of_batch,
                )
        except DatabaseUnavailableError as error:
            logger.warning("plain_tasks.not_stored", code=error.code, error=error.message)
            return False
        if added:
            self._batch, self._runs_of_batch = {}, []
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


def _run(name: str, task_id: str, queue: str | None, *, begins: bool) -> PlainRun:
    now = datetime.now(UTC)
    return PlainRun(
        id=uuid7(),
        task_id=storable_text(task_id)[:_LONGEST_ID],
        name=storable_text(name)[:LONGEST_NAME],
        queue=None if queue is None else storable_text(queue)[:LONGEST_NAME],
        status=SimpleStatus.IN_PROGRESS,
        started_at=now if begins else None,
        changed_at=now,
    )


def _storable(counts: dict[str, EndCounts]) -> dict[str, EndCounts]:
    """Return the counts by names as the database takes them."""
    found: dict[str, EndCounts] = {}
    for name, each in counts.items():
        sums = found.setdefault(storable_text(name)[:LONGEST_NAME], EndCounts())
        sums.completed += each.completed
        sums.failed += each.failed
        sums.cancelled += each.cancelled
    return found
