"""Worker processes, as they report themselves, and maintenance jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """The report of a worker process; CPU in percent of one core, memory in bytes."""

    id: UUID
    hostname: str
    pid: int
    pool: str
    slots: int
    running: int
    cpu_percent: float
    memory_bytes: int
    version: str
    coroutines: int = 0
    """How many attempts that only wait it may run besides those in its slots."""
    queues: Sequence[str] = ()
    """The queues that it consumes; empty for a worker of an older release."""
    consuming: bool | None = None
    """Whether it consumes messages; None for a worker of an older release."""
    messages_dropped: int = 0
    """Messages that its consumer dropped because they were not tasks."""
    unknown_tasks: Sequence[str] = ()
    """Names of unknown tasks that it received in the last five minutes."""
    unknown_tasks_ages: Sequence[float] = ()
    """For each of them, how many seconds before the report its last message was received."""
    lacks: Sequence[str] = ()
    """Messages of errors about what agents need and this process doesn't have, the latest last."""
    confinement: str | None = None
    """What confines its agents: `bubblewrap`, perhaps with the limits that are measured, or `none`;
    None for a worker of an older release."""
    plain_running: int = 0
    """Plain Celery tasks that it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow(WorkerReport):
    """A stored report with the database's times."""

    started_at: datetime
    seen_at: datetime
    paused: bool = False
    """Whether it takes nothing new until it is resumed."""

    def unknown_seen_at(self) -> Mapping[str, datetime]:
        """Return when a message of each unknown task came last."""
        return {
            name: self.seen_at - timedelta(seconds=age)
            for name, age in zip(self.unknown_tasks, self.unknown_tasks_ages, strict=True)
        }


LATE_INTERVALS = 3
LATE_SECONDS = 180.0
"""Reports of a job are up to a minute old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """A run of a maintenance job that has just ended."""

    name: str
    host: str
    """The host of the beat that ran it."""
    interval_seconds: float
    """The pause between two runs of a job that works."""
    seconds: float
    """How long it ran."""
    next_in: float
    """The seconds until this beat runs it again; more than usual after failures."""
    done: int
    """How much it did; 0 if it failed."""
    failures: int
    """How often it has failed in a row; 0 after a run that worked."""
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """The latest run of a maintenance job that has ended, with the database's times."""

    name: str
    host: str
    interval_seconds: float
    started_at: datetime
    ended_at: datetime
    next_at: datetime
    done: int
    failures: int
    error: str | None
    succeeded_at: datetime | None
    """When it worked last; None if it never has."""
    read_at: datetime

    @property
    def late(self) -> bool:
        """Whether the next run has not ended after three intervals, and after three minutes."""
        patience = max(LATE_INTERVALS * self.interval_seconds, LATE_SECONDS)
        return self.read_at > self.next_at + timedelta(seconds=patience)
