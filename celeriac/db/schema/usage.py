"""Tables of model calls and of their totals."""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Identity,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    Uuid,
    column,
    table,
)

from celeriac.db.schema.base import count, dollars, metadata, stored, table_of_ids, timestamp

model_calls = table_of_ids(
    "model_calls",
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    timestamp("at", now=True),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("finish_reason", Text),
    Column("cost", Numeric(18, 9)),
    postgresql_with=stored(dead=250_000, inserted=250_000),
)


def _usage_counts() -> tuple[Column[object], ...]:
    return (
        count("calls"),
        count("unpriced_calls"),
        count("input_tokens"),
        count("output_tokens"),
        count("cached_tokens"),
        dollars("cost"),
    )


usage_days = Table(
    "usage_days",
    metadata,
    # the task's
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("task_id", Uuid, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    *_usage_counts(),
    Index(None, "task_id", "day"),
    Index(None, "workspace_id", "day"),
)
"""Totals of model calls by day (UTC), without deltas. Deletion of executions leaves them.

Readers use `usage_entries`.
"""

usage_deltas = Table(
    "usage_deltas",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("day", Date, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    *_usage_counts(),
    # A queue: folded and deleted within seconds.
    postgresql_with=stored(dead=1_000),
)
"""Usage that workers have appended and the keeper has not yet folded into `usage_days`."""

usage_entries = table(
    "usage_entries", *(column(each.name, each.type) for each in usage_days.columns)
)
"""The view of all usage: totals and deltas. A key may have several rows; readers add them up."""
