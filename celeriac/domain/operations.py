"""Worker processes, as they report themselves."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow(WorkerReport):
    """A stored report with the database's times."""

    started_at: datetime
    seen_at: datetime

    def unknown_seen_at(self) -> Mapping[str, datetime]:
        """Return when a message of each unknown task came last."""
        return {
            name: self.seen_at - timedelta(seconds=age)
            for name, age in zip(self.unknown_tasks, self.unknown_tasks_ages, strict=True)
        }
