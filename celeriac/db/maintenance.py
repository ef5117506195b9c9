"""Maintenance jobs: the row of each one's latest run."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, text

from celeriac.db.paging import columns, read_all, reader
from celeriac.db.schema.maintenance import maintenance_jobs as table
from celeriac.domain.operations import JobReport, JobRow

_RECORD = text("""
INSERT INTO maintenance_jobs AS j (
    name, host, interval_seconds, started_at, ended_at, next_at, done, failures, error,
    succeeded_at)
VALUES (:name, :host, :interval_seconds, now() - make_interval(secs => :seconds), now(),
        now() + make_interval(secs => :next_in), :done, :failures, :error,
        CASE WHEN CAST(:error AS text) IS NULL THEN now() END)
ON CONFLICT (name) DO UPDATE SET
    host = excluded.host, interval_seconds = excluded.interval_seconds,
    started_at = excluded.started_at, ended_at = excluded.ended_at, next_at = excluded.next_at,
    done = excluded.done, failures = excluded.failures, error = excluded.error,
    succeeded_at = coalesce(excluded.succeeded_at, j.succeeded_at)
""")

_job = reader(JobRow)


def record(connection: Connection, sent: JobReport) -> None:
    """Store the run of a job that has just ended, in place of the one before."""
    connection.execute(
        _RECORD, {name: getattr(sent, name) for name in JobReport.__dataclass_fields__}
    )


def find(connection: Connection) -> Sequence[JobRow]:
    """Return the latest run of each job, in the order of their names."""
    computed: dict[str, ColumnElement[Any]] = {"read_at": func.now()}
    return read_all(connection, columns(JobRow, table, **computed).order_by(table.c.name), _job)


_FORGET = text("""
DELETE FROM maintenance_jobs
WHERE NOT (name = ANY (CAST(:names AS text[]))) AND ended_at < now() - interval '1 hour'
""")


def forget(connection: Connection, names: Collection[str]) -> None:
    """Delete the rows of other jobs, which no beat has run for an hour."""
    connection.execute(_FORGET, {"names": list(names)})
