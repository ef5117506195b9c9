"""Steps of executions, and their children."""

from sqlalchemy import JSON, Column, Index, Integer, SmallInteger, Table, Text, Uuid, text

from celeriac.db.schema.base import enum_check, metadata, stored, timestamp, where
from celeriac.domain.executions.steps import StepKind, StepStatus

steps = Table(
    "steps",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    # in the order in which they were first stored
    Column("number", Integer, primary_key=True),
    # its place in the code; NULL: it is known by its name
    Column("path", Text),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    # the execution's at that time: a retry repeats what failed before it
    Column("retry_count", Integer, nullable=False),
    Column("tries", Integer, nullable=False, server_default="1"),
    timestamp("at", now=True),
    timestamp("wake_at"),
    # of children: how many, and how many may run at once
    Column("width", Integer),
    Column("parallel", Integer),
    Column("result", JSON),
    Column("error", JSON),
    enum_check("kind", StepKind),
    enum_check("status", StepStatus),
    # two calls that race for one place are not both stored
    Index("uq_steps_place", "execution_id", text("coalesce(path, ':' || name)"), unique=True),
    Index("ix_steps_parallel", "execution_id",
          **where("status = 'waiting' AND parallel IS NOT NULL")),
    postgresql_with=stored(dead=10_000, share=0.01, inserted=250_000),
)  # fmt: skip
"""What an agent has done that is not done again; as long as it waits, what it waits for."""

children = Table(
    "children",
    metadata,
    Column("parent_id", Uuid, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("execution_id", Uuid, nullable=False),
    postgresql_with=stored(dead=10_000, share=0.01, inserted=250_000),
)
"""The executions that a step has started, the last of each item."""

live_children = Table(
    "live_children",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("shard", SmallInteger, primary_key=True),
    Column("live", Integer, nullable=False),
    postgresql_with=stored(dead=5_000, share=0.01, fill=50),
)
"""How many children of an execution have not ended, in 16 shards by their ids.

Shard 0 counts the other shards that are not 0.
"""

execution_trees = Table(
    "execution_trees",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("started", Integer, nullable=False),
    postgresql_with=stored(dead=1_000, fill=50),
)
"""How many executions were started below the first one of a tree."""

ended_parents = Table(
    "ended_parents",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    timestamp("at", now=True),
    postgresql_with=stored(dead=1_000),
)
"""Executions that have ended, or whose cancellation is requested, with children to cancel."""
