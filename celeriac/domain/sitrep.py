"""The situation report: the facts that are gathered, and the parts that are shown.

Every part is a section with an age of its own: a source that does not answer in time leaves its
last-known data, or none. "Could not ask" is `ok` False; "nothing there" is `ok` True and empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

from celeriac.domain.executions.states import Held, SimpleStatus, Status, WaitingFor
from celeriac.domain.plain_tasks import PlainFigures, PlainWaiting

T = TypeVar("T")

MOST_QUEUES = 100
"""Queues that a report has at most: those in which something has waited longest."""

MOST_COUNTED = 1_000
"""Executions that are counted at most for each reason; beyond it a count reads "1,000+"."""

MOST_ERROR_CHARACTERS = 200


class Level(StrEnum):
    """How bad it is."""

    WELL = "well"
    INFO = "info"
    """Of problems only: worth knowing, no fault."""
    WARNING = "warning"
    CRITICAL = "critical"


SEVERITY: Mapping[Level, int] = {
    Level.CRITICAL: 0, Level.WARNING: 1, Level.INFO: 2, Level.WELL: 3,
}  # fmt: skip


class SitrepScope(StrEnum):
    """What a report is about."""

    WORKSPACE = "workspace"
    INSTANCE = "instance"
    """All workspaces; for administrators."""


class TaskKind(StrEnum):
    """What a recent task is."""

    EXECUTION = "execution"
    CELERY = "celery"
    """A plain Celery task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Generic[T]):
    """The answer of one source; `data` may be older than `as_of` of the report."""

    ok: bool
    as_of: datetime | None = None
    """When the data was read; None if it never was."""
    age_seconds: float | None = None
    data: T | None = None
    error: str | None = None
    """Why it could not be asked; None if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCount:
    """How many executions are in one state, in one queue; at most MOST_COUNTED + 1 of a state."""

    status: Status
    held: Held | None
    waiting_for: WaitingFor | None
    queue: str
    count: int
    oldest_seconds: float | None
    """How long the oldest of them could have begun; negative if it is due later."""


def reason_of(each: LiveCount) -> str:
    """Return why executions have not begun, or don't continue, as one word."""
    if each.status is Status.WAITING:
        return each.waiting_for.value if each.waiting_for else "other"
    if each.status is Status.QUEUED:
        return "sent"
    if each.held is None:
        return "due"
    return "delayed" if each.held is Held.TIME else each.held.value


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingReason:
    """How many executions wait for one reason."""

    reason: str
    count: int
    capped: bool
    """Whether there are more than `count`."""
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What waits in a queue, and who listens to it."""

    queue: str
    depth: int
    capped: bool
    oldest_seconds: float | None
    workers: int
    slots: int
    paused: bool
    paused_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker process that reports, or has stopped reporting."""

    hostname: str
    pid: int
    status: str
    """`live`, `paused`, `not_consuming` or `silent`."""
    queues: Sequence[str]
    slots: int
    running: int
    version: str
    started_at: datetime
    seen_at: datetime
    silent_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentTask:
    """An execution or a plain Celery task, as it is now."""

    id: UUID
    """Orders the list: it holds the time at which the task was made."""
    type: TaskKind
    task_id: str
    name: str
    status: SimpleStatus | None
    """None if the result backend could not be asked, or the worker that began it has gone."""
    description: str
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    error_message: str | None
    queue: str | None = None
    """None of a plain task that no worker has begun."""
    recorded: bool = True
    """Whether the database has its state; otherwise the result backend may have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentTasks:
    """A page of recent tasks, the newest first."""

    items: Sequence[RecentTask]
    next_cursor: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentWanted:
    """Which recent tasks to show."""

    limit: int = 10
    before: UUID | None = None
    type: TaskKind | None = None
    status: SimpleStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicTask:
    """A schedule, or a maintenance job of the system."""

    name: str
    kind: str
    """`schedule` or `maintenance`."""
    active: bool
    timing: str
    last_run_at: datetime | None
    last_status: str | None
    last_error: str | None
    next_run_at: datetime | None
    late_seconds: float | None
    """How late the next run is; None if it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSchedule:
    """A schedule whose fire is overdue."""

    name: str
    late_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """How much of a budget is spent in its window."""

    subject: str
    period: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingEndpoint:
    """A webhook endpoint that has not accepted deliveries since a while."""

    host: str
    failing_seconds: float
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseFact:
    """A pause that is in force."""

    subject: str
    queue: str | None
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingTask:
    """A task of which all executions that ended in the window have failed."""

    name: str
    """With the workspace before it in a report of the instance."""
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What waits for people, and what they should know."""

    approvals: int = 0
    approvals_capped: bool = False
    oldest_approval_seconds: float | None = None
    budgets: Sequence[BudgetUse] = ()
    """Those of which a part is spent, the most spent first."""
    endpoints: Sequence[FailingEndpoint] = ()
    pauses: Sequence[PauseFact] = ()
    late_schedules: Sequence[LateSchedule] = ()
    failing_tasks: Sequence[FailingTask] = ()
    """The most failures first."""
    regressed: int = 0
    """Groups of failures that have failed again after they were resolved."""
    regressed_seconds: float | None = None
    """How long ago the latest of these failures was."""
    stuck_jobs: int = 0
    """Bulk jobs that nobody works on."""
    stuck_jobs_seconds: float | None = None
    """The longest time for which they have stood still."""
    silent: int = 0
    """Running executions that have had no event for long."""
    silent_seconds: float | None = None
    """The longest of these silences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Figures of what ended, of all time or of a window; times are those of executions."""

    completed: int
    failed: int
    cancelled: int
    success_rate: float | None
    """The share of completed ones among completed and failed; None without any."""
    per_minute: float | None = None
    """Ends per minute, in a window."""
    seconds: float | None = None
    """The length of the window."""
    average_wait_seconds: float | None = None
    average_run_seconds: float | None = None
    wait_p95_seconds: float | None = None
    run_p95_seconds: float | None = None
    behind_seconds: float | None = None
    """The age of the oldest end that is not counted yet."""
    no_ops: int = 0
    """Those that completed and had done nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong, or worth knowing, and what to do about it."""

    level: Level
    code: str
    text: str
    cure: str
    age_seconds: float = 0.0
    """How long it has been so, as far as is known; orders problems of the same level."""
    link: str = ""
    """The section of the runbook about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known; None for a source that has never answered."""

    database_error: str | None = None
    redis_error: str | None = None
    broker_error: str | None = None
    window: Totals | None = None
    queues: Sequence[QueueState] | None = None
    workers: Sequence[WorkerState] | None = None
    attention: Attention | None = None
    periodic: Sequence[PeriodicTask] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitrep:
    """The situation report."""

    level: Level
    headline: str
    scope: SitrepScope
    as_of: datetime
    problems: Sequence[Problem]
    total_tasks: int | None
    active_tasks: int | None
    completed_tasks: int | None
    failed_tasks: int | None
    pending_tasks: int | None
    success_rate: float | None
    capped: bool
    """Whether active or pending tasks were counted up to a limit only."""
    totals: Section[Totals]
    window: Section[Totals]
    plain_tasks: Section[PlainFigures]
    """The part of plain Celery tasks in these figures; without data for those who don't see it."""
    plain_waiting: Section[PlainWaiting]
    """Plain Celery tasks that wait in the broker; without data for those who don't see it."""
    waiting: Section[Sequence[WaitingReason]]
    recent_tasks: Section[RecentTasks]
    workers: Section[Sequence[WorkerState]]
    queues: Section[Sequence[QueueState]]
    periodic_tasks: Section[Sequence[PeriodicTask]]
    attention: Section[Attention]
    broker: Section[Mapping[str, int]]
    """The messages in the broker's queues."""


def friendly_name(name: str) -> str:
    """Return a task's name for people: `app.tasks.health_check` is "Health Check"."""
    last = name.rsplit(".", 1)[-1]
    words = last.replace("_", " ").replace("-", " ").split()
    return " ".join(word[:1].upper() + word[1:] for word in words) or name
