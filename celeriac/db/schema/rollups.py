"""Tables of executions that ended, and of their sums (docs/adr/0060)."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY

from celeriac.db.schema.base import count, dollars, enum_check, metadata, stored, timestamp
from celeriac.domain.rollups import Grain, RollupScope

execution_ends = Table(
    "execution_ends",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    timestamp("ended_at", now=True),
    # NULL: it has never begun
    Column("wait_ms", BigInteger),
    Column("run_ms", BigInteger),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("model_calls", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("denied_tools", Integer, nullable=False, server_default="0"),
    Column("no_op", Boolean, nullable=False, server_default="false"),
    Column("cost", Numeric(18, 9), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("queue", Text, nullable=False),
    # of a failure, or of what repeats another execution (docs/adr/0065)
    Column("execution_id", Uuid),
    Column("origin_id", Uuid),
    Column("fingerprint", Text),
    Column("error_code", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    # A queue: folded and deleted within seconds.
    postgresql_with=stored(dead=1_000),
)
"""Ends that the statements of ends have appended and the keeper has not yet folded."""

COUNTS = (
    "completed", "failed", "cancelled", "retries", "crashes", "model_calls", "input_tokens",
    "output_tokens", "cached_tokens", "denied_tools", "no_ops",
)  # fmt: skip
"""What is counted of executions that ended."""

execution_rollups = Table(
    "execution_rollups",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("grain", Text, primary_key=True),
    Column("start", timestamp("start").type, primary_key=True),
    # the nil UUID and an empty text where the scope is wider
    Column("workspace_id", Uuid, primary_key=True),
    Column("task_id", Uuid, primary_key=True),
    Column("queue", Text, primary_key=True),
    *map(count, COUNTS),
    dollars("cost"),
    Column("wait_seconds", Double, nullable=False, server_default="0"),
    Column("run_seconds", Double, nullable=False, server_default="0"),
    # histograms: buckets that are not empty, and the count of each (`celeriac.domain.rollups`)
    Column("wait_buckets", ARRAY(SmallInteger)),
    Column("wait_counts", ARRAY(BigInteger)),
    Column("run_buckets", ARRAY(SmallInteger)),
    Column("run_counts", ARRAY(BigInteger)),
    enum_check("scope", RollupScope),
    enum_check("grain", Grain),
    Index("ix_execution_rollups_workspace", "workspace_id", "scope", "grain", "start"),
    Index("ix_execution_rollups_age", "grain", "start"),
    # The rows of now are updated every few seconds, in columns that no index has.
    postgresql_with=stored(dead=1_000, fill=70),
)
"""Sums of executions that ended by minute, hour, day and of all time.

Their deletion leaves them. The rows of all time start at the epoch.
"""
