"""Tables of plain Celery tasks: sums of those that ended, and recent runs (docs/adr/0071)."""

from sqlalchemy import Column, Index, Table, Text, Uuid

from celeriac.db.schema.base import count, enum_check, metadata, stored, timestamp
from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.rollups import Grain

plain_task_sums = Table(
    "plain_task_sums",
    metadata,
    Column("grain", Text, primary_key=True),
    Column("start", timestamp("start").type, primary_key=True),
    # empty: of all plain tasks; others have sums of all time only
    Column("name", Text, primary_key=True),
    count("completed"),
    count("failed"),
    count("cancelled"),
    enum_check("grain", Grain),
    # The rows of now are updated every few seconds, in columns that no index has.
    postgresql_with=stored(dead=1_000, fill=70),
)
"""Sums by minute, hour, day and of all time; the rows of all time start at the epoch."""

plain_task_runs = Table(
    "plain_task_runs",
    metadata,
    # Celery's id, which may be any text
    Column("task_id", Text, primary_key=True),
    Column("id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("queue", Text),
    Column("hostname", Text, nullable=False),
    Column("status", Text, nullable=False),
    timestamp("started_at"),
    Column("changed_at", timestamp("changed_at").type, nullable=False),
    Column("error_message", Text),
    enum_check("status", SimpleStatus),
    Index("ix_plain_task_runs_id", "id"),
    Index("ix_plain_task_runs_worker", "hostname", "id"),
    postgresql_with=stored(dead=1_000),
)
"""Runs that workers began last; a few for each worker."""
