"""Limits by key of executions."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
)

from celeriac.db.schema.base import (
    enum_check,
    metadata,
    stored,
    table_of_ids,
    timestamp,
    where,
)
from celeriac.domain.limit_policies import LimitCount, LimitOf, LimitPolicy
from celeriac.domain.limits import ExecutionSlot

limits = table_of_ids(
    "limits",
    Column("workspace_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    # of a task, or of a workflow; else of all of the workspace
    Column("task_id", Uuid),
    Column("workflow_id", Uuid),
    # executions, or the runs of the workflow
    Column("of", Text, nullable=False),
    # NULL: all of these share its slots
    Column("key", Text),
    Column("max", Integer, nullable=False),
    # of a rate
    Column("seconds", Double),
    Column("burst", Integer),
    Column("policy", Text, nullable=False),
    Column("count", Text, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("created_by", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    # it limits nothing more; the row is kept while executions name it
    timestamp("deleted_at"),
    # when the keeper looks at it again: for executions that lack it, or to drop a deleted one
    timestamp("look_at"),
    # how often the keeper still walks over all live executions, and the last that it has seen
    Column("walks", SmallInteger, nullable=False),
    Column("walked_to", Uuid, nullable=False),
    enum_check("policy", LimitPolicy),
    enum_check("of", LimitOf),
    enum_check("count", LimitCount),
    CheckConstraint("task_id IS NULL OR workflow_id IS NULL", name="one_subject"),
    CheckConstraint("of = 'executions' OR workflow_id IS NOT NULL", name="runs_of_workflow"),
    Index("uq_limits_workspace_id_name", "workspace_id", "name", unique=True,
          **where("deleted_at IS NULL")),
    Index("ix_limits_runs", "workflow_id", **where("of = 'runs' AND deleted_at IS NULL")),
    Index("ix_limits_look_at", "look_at", **where("look_at IS NOT NULL")),
)  # fmt: skip
"""The limits of workspaces, which are changed while their executions and runs live."""

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
    # of a limit of the workspace: its row has the numbers in effect
    Column("limit_id", Uuid),
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
    # in which lines of a limit executions wait
    Index("ix_execution_limits_limit", "limit_id", "state", "key",
          **where("limit_id IS NOT NULL")),
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
    # why it waits
    Index(None, "execution_id"),
    postgresql_with=stored(dead=1_000, share=0.01, fill=70),
)
"""The executions that wait for newer ones to replace them."""
