"""Worker processes as rows: each reports itself every few seconds."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.models import workers as table

_SLOTS = text(
    "SELECT coalesce(sum(slots), 0) FROM workers"
    " WHERE stopped_at IS NULL AND seen_at > now() - make_interval(secs => :within)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker process says of itself; CPU in percent of one core, memory in bytes."""

    id: UUID
    hostname: str
    pid: int
    pool: str
    slots: int
    running: int
    cpu_percent: float
    memory_bytes: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow(WorkerReport):
    """A stored report with the database's times."""

    started_at: datetime
    seen_at: datetime


def report(connection: Connection, said: WorkerReport) -> None:
    """Insert or renew the row of a worker process."""
    values = {name: getattr(said, name) for name in WorkerReport.__dataclass_fields__}
    statement = insert(table).values(**values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.id], set_={**values, "seen_at": func.now()}
        )
    )


def stopped(connection: Connection, worker_id: UUID) -> None:
    """Write that a worker process has ended in order."""
    connection.execute(
        update(table).where(table.c.id == worker_id).values(stopped_at=func.now(), running=0)
    )


def live(connection: Connection, *, within_seconds: float) -> list[WorkerRow]:
    """Return the worker processes that reported within the last `within_seconds`."""
    columns = [table.c[name] for name in WorkerRow.__dataclass_fields__]
    query = (
        select(*columns)
        .where(
            table.c.stopped_at.is_(None),
            table.c.seen_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, within_seconds),
        )
        .order_by(table.c.hostname, table.c.pid)
    )
    return [WorkerRow(**row) for row in connection.execute(query).mappings()]


def slots(connection: Connection, *, within_seconds: float) -> int:
    """Return how many executions the live worker processes can run at once, all together."""
    return int(connection.execute(_SLOTS, {"within": within_seconds}).scalar_one())


def forget(connection: Connection, *, older_than_seconds: float) -> int:
    """Delete the rows of processes that are long gone; return how many."""
    horizon = func.now() - text("make_interval(secs => :age)").bindparams(age=older_than_seconds)
    return connection.execute(delete(table).where(table.c.seen_at < horizon)).rowcount
