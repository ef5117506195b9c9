"""Counts the plain Celery tasks of a worker, by Celery's signals (docs/adr/0071).

A plain task stands for no execution. Celery's own tasks (`celery.chord_unlock`) are not counted.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from celery import signals
from celery.exceptions import TimeLimitExceeded

from celeriac.domain.plain_tasks import PlainEnd, is_plain
from celeriac.kit.untrusted import read_text, type_name
from celeriac.services.operations.plain_tasks import PlainTaskCounts, none_run
from celeriac.settings import Settings
from celeriac.wiring.worker import heartbeat_database_of

logger = structlog.get_logger(__name__)

_MOST_CHARACTERS = 2_000
"""Of the text of an error."""


def connect_counts(counts: Callable[[], PlainTaskCounts]) -> None:
    """Count the tasks of this process in what `counts` returns there."""

    def received(request: Any, **_: Any) -> None:
        if is_plain(request.name):
            _delivered(counts(), request.id, request.delivery_info)

    def began(sender: Any, task_id: str, **_: Any) -> None:
        if is_plain(sender.name):
            _delivered(counts(), task_id, sender.request.delivery_info)
            counts().began(sender.name, task_id, _queue(sender.request))

    def left(sender: Any, task_id: str, **_: Any) -> None:
        if is_plain(sender.name):
            counts().left(task_id)

    def ended(end: PlainEnd) -> Callable[..., None]:
        def handle(sender: Any, task_id: str | None = None, request: Any = None, **of: Any) -> None:
            if is_plain(sender.name) and not _runs_again(sender, of.get("exception")):
                of_task = request or sender.request
                counts().ended(
                    sender.name,
                    end,
                    task_id or of_task.id,
                    _queue(of_task),
                    _error(of.get("exception")),
                )

        return handle

    # the parent of prefork has the first signal, its children the second one
    signals.task_received.connect(received, weak=False)
    signals.task_prerun.connect(began, weak=False)
    signals.task_postrun.connect(left, weak=False)
    signals.task_success.connect(ended(PlainEnd.COMPLETED), weak=False)
    signals.task_failure.connect(ended(PlainEnd.FAILED), weak=False)
    signals.task_revoked.connect(ended(PlainEnd.CANCELLED), weak=False)


def _queue(request: Any) -> str | None:
    """Return the queue that a task came from: Celery's queues have the names of their keys."""
    name = (getattr(request, "delivery_info", None) or {}).get("routing_key")
    return name if isinstance(name, str) else None


def _error(exception: Any) -> str | None:
    """Describe what a task has raised. Its class is a user's, whose code may raise anything."""
    if exception is None:
        return None
    text = read_text(lambda: str(exception), _MOST_CHARACTERS)
    return f"{type_name(type(exception))}: {text}"


def _delivered(counts: PlainTaskCounts, task_id: str, delivery: Mapping[str, Any] | None) -> None:
    """Distinguish a task that was sent again with an id from one that the broker delivers again."""
    if not (delivery or {}).get("redelivered"):
        counts.sent_again(task_id)


def _runs_again(task: Any, exception: BaseException | None) -> bool:
    """Whether a failed task is delivered again: Celery signals this hard time limit all the same.

    For a lost child, which `task_reject_on_worker_lost` has delivered again, it sends no signal.
    """
    return isinstance(exception, TimeLimitExceeded) and task.acks_late and not task.acks_on_timeout


class ParentCounts:
    """The counts of the parent of `prefork`: tasks that were revoked or whose child was lost.

    Celery signals twice that one exceeded its hard time limit. The rows of children that were
    killed say what ran in them until another process takes them for lost; the parent corrects them.
    """

    def __init__(self, settings: Settings, hostname: str, pool: Any) -> None:
        """`pool` is Celery's, whose children have started."""
        self.counts = PlainTaskCounts()
        self._hostname = hostname
        self._pool = pool
        self._children: set[int] = set()
        self._children = self._pids()
        self._gone: set[int] = set()
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
            self._correct()
            self.counts.store(self._database, lambda: None, hostname=self._hostname)
        except Exception:
            logger.exception("worker.thread_failed", thread="plain-tasks")

    def _correct(self) -> None:
        """Correct the rows of children that have ended; those that could not be are kept."""
        children = self._pids()
        self._gone |= self._children - children
        self._children = children
        if not self._gone:
            return
        gone = sorted(self._gone)
        if none_run(self._database, self._hostname, gone):
            self._gone.difference_update(gone)

    def _pids(self) -> set[int]:
        try:
            return set(self._pool.info["processes"])
        except AttributeError:  # Celery has ended the pool
            return self._children
