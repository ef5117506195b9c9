"""Limits by key of executions."""

from sqlalchemy import Column, DateTime, Double, Index, Integer, SmallInteger, Table, Text, Uuid

from celeriac.db.schema.base import enum_check, metadata, stored, where
from celeriac.domain.limits import ExecutionSlot, LimitPolicy

execution_limits = Table(
    "execution_limits",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("max", Integer, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", Text, nullable=False),
    # its place in the line, before its age: 0 to go on, else less for a higher priority
    Column("place", SmallInteger, nullable=False),
    # of a rate: from one begin to the next, and how many may begin at once after a rest
    Column("interval_seconds", Double),
    Column("burst", Integer),
    enum_check("policy", LimitPolicy),
    enum_check("state", ExecutionSlot),
    Index("ix_execution_limits_held", "workspace_id", "key", "execution_id",
          **where("state = 'held'")),
    Index("ix_execution_limits_waiting", "workspace_id", "key", "place", "execution_id",
          **where("state = 'waiting'")),
    Index("ix_execution_limits_elsewhere", "workspace_id", "key", "place", "execution_id",
          **where("state = 'elsewhere'")),
    Index("ix_execution_limits_policies", "workspace_id", "key",
          **where("state IN ('waiting', 'elsewhere') AND policy <> 'queue'")),
    # two rows of each execution die, and four versions of them
    postgresql_with=stored(dead=10_000, share=0.01, fill=70),
)  # fmt: skip
"""The limits of executions that have not ended: who has a slot of a key, and who waits for one.

An execution without limits has no row; its rows are deleted by the statement that ends it.
"""

execution_rates = Table(
    "execution_rates",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    # when the next would begin if all came in even intervals; over: as if there were no row
    Column("next_at", DateTime(timezone=True), nullable=False),
    Index(None, "next_at"),
    postgresql_with=stored(dead=1_000, share=0.01, fill=70),
)
"""The rates of which something has begun."""

debounces = Table(
    "debounces",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("execution_id", Uuid, nullable=False),
    # the first submission, and how many were replaced since
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("replaced", Integer, nullable=False),
    # when the execution is due; over: as if there were no row
    Column("due_at", DateTime(timezone=True), nullable=False),
    Index(None, "due_at"),
    postgresql_with=stored(dead=1_000, share=0.01, fill=70),
)
"""The executions that wait for newer ones to replace them."""
