"""Tables of model calls and of their totals."""

from typing import Any

from sqlalchemy import (
    ARRAY,
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

from celeriac.db.schema.base import count, dollars, metadata, partitioned, stored, timestamp

model_calls = Table(
    "model_calls",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("id", Uuid, primary_key=True),
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
    **partitioned("execution_id", dead=250_000, inserted=250_000),
)


COUNTS = ("calls", "unpriced_calls", "input_tokens", "output_tokens", "cached_tokens")
"""What is counted of model calls, besides their cost."""


def _usage(*, keyed: bool) -> tuple[Column[Any], ...]:
    """Return the columns of usage; `keyed` makes what it is counted by the table's key."""
    key = {"owner_id": Uuid, "day": Date, "task_id": Uuid, "provider": Text, "model": Text}
    return (
        # the task's
        Column("workspace_id", Uuid, nullable=False),
        *(Column(name, kind, primary_key=keyed, nullable=False) for name, kind in key.items()),
        *map(count, COUNTS),
        dollars("cost"),
    )


usage_days = Table(
    "usage_days",
    metadata,
    *_usage(keyed=True),
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
    *_usage(keyed=False),
    # how long each call took
    Column("latencies_ms", ARRAY(Integer)),
    # A queue: folded and deleted within seconds.
    postgresql_with=stored(dead=1_000),
)
"""Usage that workers have appended and the keeper has not yet folded into `usage_days`."""

model_call_times = Table(
    "model_call_times",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    # of `celeriac.domain.rollups`
    Column("bucket", Integer, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
    # Updated every few seconds.
    postgresql_with=stored(dead=1_000),
)
"""Histograms of how long model calls took, of all time, without deltas.

The first models have rows of their own; all later ones are added up as `other`.
"""

usage_entries = table(
    "usage_entries", *(column(each.name, each.type) for each in usage_days.columns)
)
"""The view of all usage: totals and deltas. A key may have several rows; readers add them up."""
