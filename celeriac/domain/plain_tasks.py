"""Plain Celery tasks: those that stand for no execution. Workers count how they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.executions.own_tasks import OWN_TASKS
from celeriac.domain.executions.states import SimpleStatus

MOST_NAMES = 200
"""Names of plain tasks that have sums of their own; those of all others are added up."""

LONGEST_NAME = 200

MOST_RUNS_OF_BATCH = 20
"""Runs that a process stores with one heartbeat: the newest."""

MOST_RUNS_OF_WORKER = 100
"""Runs of a worker that are kept: those that began last."""

MOST_LISTED = 100
"""Names and queues of waiting tasks that a report lists."""


_NOT_PLAIN = (OWN_TASKS, "celery.")


def is_plain(name: str) -> bool:
    """Whether Celery tasks of this name stand for no execution, and are not Celery's own."""
    return not name.startswith(_NOT_PLAIN)


class PlainEnd(StrEnum):
    """How a plain task ended, in the words of executions."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """It was revoked, or had expired."""


@dataclass(slots=True)
class EndCounts:
    """How many plain tasks ended."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, end: PlainEnd) -> None:
        """Count one more."""
        setattr(self, end.value, getattr(self, end.value) + 1)

    @property
    def ended(self) -> int:
        """How many there are."""
        return self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class PlainFigures:
    """What is known of plain tasks."""

    totals: EndCounts
    """Of all time."""
    window: EndCounts
    """Of the last minutes."""
    running: int
    """Those that run now, as worker processes reported last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRun:
    """A plain task that a worker has begun, or that was revoked before it began."""

    id: UUID
    """Orders runs by their begin."""
    task_id: str
    name: str
    queue: str | None
    status: SimpleStatus
    """In progress also while Celery is about to try it again."""
    started_at: datetime | None
    changed_at: datetime
    """When it got the status: for one that ended, the end."""
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class RecentRun:
    """A run as it is stored; `alive` says whether its worker still reports."""

    run: PlainRun
    hostname: str
    alive: bool


@dataclass(frozen=True, slots=True)
class WaitingTasks:
    """How many messages of one task are in a queue."""

    queue: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class PlainWaiting:
    """Plain tasks that wait in the broker's queues."""

    count: int
    capped: bool
    """Whether there are messages that were not looked at."""
    tasks: Sequence[WaitingTasks] = ()
    """The most frequent first, at most MOST_LISTED."""


CountsByName = Mapping[str, EndCounts]
