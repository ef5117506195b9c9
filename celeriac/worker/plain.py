"""Counts the plain Celery tasks of a worker, by Celery's signals (docs/adr/0071).

A plain task stands for no execution. Celery's own tasks (`celery.chord_unlock`) are not counted.
"""

import threading
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals

from celeriac.adapters.celery_queue import EXECUTE_TASK
from celeriac.domain.executions.calls import BATCH_PROCESS, EXECUTE_AGENT, EXECUTE_WORKFLOW
from celeriac.domain.plain_tasks import PlainEnd
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.settings import Settings
from celeriac.wiring.worker import heartbeat_database_of

logger = structlog.get_logger(__name__)

_OF_EXECUTIONS = frozenset({EXECUTE_TASK, EXECUTE_AGENT, EXECUTE_WORKFLOW, BATCH_PROCESS})
_CELERYS = "celery."


def is_plain(name: str) -> bool:
    """Whether tasks of this name stand for no execution, and are not Celery's own."""
    return name not in _OF_EXECUTIONS and not name.startswith(_CELERYS)


def connect_counts(counts: Callable[[], PlainTaskCounts]) -> None:
    """Count the tasks of this process in what `counts` returns there."""

    def began(sender: Any, **_: Any) -> None:
        if is_plain(sender.name):
            counts().began()

    def left(sender: Any, **_: Any) -> None:
        if is_plain(sender.name):
            counts().left()

    def ended(end: PlainEnd) -> Callable[..., None]:
        def handle(sender: Any, **_: Any) -> None:
            if is_plain(sender.name):
                counts().ended(sender.name, end)

        return handle

    signals.task_prerun.connect(began, weak=False)
    signals.task_postrun.connect(left, weak=False)
    signals.task_success.connect(ended(PlainEnd.COMPLETED), weak=False)
    signals.task_failure.connect(ended(PlainEnd.FAILED), weak=False)
    signals.task_revoked.connect(ended(PlainEnd.CANCELLED), weak=False)


class ParentCounts:
    """The counts of the parent of `prefork`: tasks that were revoked or whose child was lost."""

    def __init__(self, settings: Settings) -> None:
        self.counts = PlainTaskCounts()
        self._seconds = settings.worker.heartbeat_seconds
        self._database = heartbeat_database_of(settings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plain-tasks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Store what is left, if that is possible, and end the thread."""
        self._ended.set()
        self._thread.join(5)
        if not self._thread.is_alive():  # else the database is away, and a batch is on its way
            self._store()
        self._database.close()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._store()

    def _store(self) -> None:
        try:
            self.counts.store(self._database, lambda: None)
        except Exception:
            logger.exception("worker.thread_failed", thread="plain-tasks")
