"""Figures for monitoring: what the database and Redis say at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from celeriac.domain.operations import WorkerRow
from celeriac.domain.plain_tasks import CountsByName
from celeriac.domain.rollups import Histogram

MOST_TASKS = 200
"""Pairs of task and queue that have series of their own; the rest is added up as `other`."""

MOST_QUEUES = 100
"""Queues that have series of their own."""

MOST_BUDGETS = 20
"""Budgets that have series: those of which the largest share is used."""

MOST_MODELS = 50
"""Pairs of provider and model that have series of their own: the first; the rest is `other`."""

MOST_GROUPS = 2_000
"""Groups of failures that are counted by state: those that have failed last."""

MOST_COUNTED = 10_000
"""How far live rows are counted: of each queue and status, of questions, of new executions."""

OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFigures:
    """Totals of all time of a task in a queue, or of all others."""

    workspace: str
    task: str
    queue: str
    counts: Mapping[str, int]
    """By the names of `celeriac.db.schema.rollups.COUNTS`."""
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """What a queue holds now. Counts stop at `MOST_COUNTED`."""

    queue: str
    due: int
    """Pending executions that may begin."""
    sent: int
    """Executions whose messages are at the broker."""
    running: int
    silent: int
    """Those of the running ones that are (`celeriac.domain.executions.flags`)."""
    oldest_age_seconds: float
    """How long the oldest of those that could begin has waited; 0 without any."""
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDurations:
    """Durations of all time of the executions of a queue."""

    queue: str
    wait: Histogram
    wait_seconds: float
    run: Histogram
    run_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDurations:
    """Durations of all time of the calls of a model, or of all others."""

    provider: str
    model: str
    calls: Histogram
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFigures:
    """The used share of a budget in its day or month."""

    workspace: str
    scope: str
    subject: str
    period: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperFigures:
    """What the keeper has done."""

    last_round: float
    """When a job ended last, in Unix seconds; 0 before the first."""
    failures: Mapping[str, int]
    """How often in a row each job has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFigures:
    """What the database says."""

    tasks: Sequence[TaskFigures]
    queues: Sequence[QueueFigures]
    durations: Sequence[QueueDurations]
    held: Mapping[tuple[str, str], int]
    """Live executions that no queue counts, by status and what they wait for."""
    plain_tasks: CountsByName
    models: Sequence[ModelDurations]
    failure_groups: Mapping[str, int]
    """By state, of those that have failed last."""
    workers: Sequence[WorkerRow]
    slots: Mapping[str | None, int]
    """Of consuming workers, by queue."""
    submitted: int
    """Executions of the last minute."""
    approvals: int
    approval_age_seconds: float
    schedule_late_seconds: float
    unfolded_seconds: float
    keeper: KeeperFigures
    budgets: Sequence[BudgetFigures]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFigures:
    """What Redis says; memory in bytes, 0 as its limit without one."""

    memory_bytes: int
    memory_limit_bytes: int
    connections: int
    seconds: float
    """How long one command took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFigures:
    """The file system of a directory on the machine that is asked, in bytes."""

    directory: str
    """What the directory is for: `home` or `logs`."""
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures; None for what could not be asked."""

    database: DatabaseFigures | None
    redis: RedisFigures | None
    disks: Sequence[DiskFigures] | None
