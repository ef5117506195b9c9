"""Tables of the runs of workflows, their steps and items."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
)

from celeriac.db.schema.base import enum_check, metadata, stored, table_of_ids, timestamp, where
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.workflows.limits import SlotState
from celeriac.domain.workflows.states import Compensation, RunStatus, StepStatus

# The tables of runs have no foreign keys, as those of executions.
workflow_runs = table_of_ids(
    "workflow_runs",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("workflow_id", Uuid, nullable=False),
    Column("workflow_version_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("trigger_type", Text, nullable=False),
    # of its executions; NULL: that of each task
    Column("priority", SmallInteger),
    Column("input", JSON, nullable=False),
    Column("result", JSON),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_step", Text),
    Column("compensation", Text),
    # the run that retries what failed of it; written once
    Column("compensation_run_id", Uuid),
    Column("origin_id", Uuid),
    # the item of a step that it is
    Column("parent_run_id", Uuid),
    Column("parent_step_no", SmallInteger),
    Column("parent_item_no", Integer),
    Column("depth", SmallInteger, nullable=False, server_default="1"),
    Column("request_id", Text),
    Column("created_by", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("deadline_at"),
    # it has met its deadline
    Column("overdue", Boolean, nullable=False, server_default="false"),
    timestamp("cancel_requested_at"),
    Column("cancel_requested_by", Text),
    timestamp("completed_at"),
    Column("event_seq", Integer, nullable=False, server_default="0"),
    # it has rows of `run_limits` until it ends
    Column("limited", Boolean, nullable=False, server_default="false"),
    enum_check("status", RunStatus),
    enum_check("trigger_type", TriggerType),
    enum_check("compensation", Compensation),
    Index(None, "workspace_id", "id"),
    Index(None, "workflow_id", "id"),
    Index("ix_workflow_runs_top_level", "workspace_id", "id", **where("parent_run_id IS NULL")),
    Index("ix_workflow_runs_trigger_type", "workspace_id", "trigger_type", "id"),
    Index("ix_workflow_runs_status", "workspace_id", "status", "id",
          **where("status <> 'completed'")),
    Index("ix_workflow_runs_origin_id", "origin_id", **where("origin_id IS NOT NULL")),
    Index("ix_workflow_runs_parent_run_id", "parent_run_id",
          **where("parent_run_id IS NOT NULL")),
    Index("ix_workflow_runs_live", "id", **where("completed_at IS NULL")),
    Index("ix_workflow_runs_deadline", "deadline_at",
          **where("completed_at IS NULL AND NOT overdue AND deadline_at IS NOT NULL")),
    postgresql_with=stored(dead=1_000, share=0.01, fill=80),
)  # fmt: skip

step_runs = Table(
    "step_runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    # its place in the document, from 1; that of an undo step is that of its step, after all others
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("step", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    # how many items it has, and how many of them were made
    Column("width", Integer, nullable=False, server_default="0"),
    Column("spawned", Integer, nullable=False, server_default="0"),
    # rows of `fan_ins` with items that have not ended
    Column("shards_left", SmallInteger, nullable=False, server_default="0"),
    Column("round", Integer, nullable=False, server_default="0"),
    Column("parallel", Integer),
    # whether a failure of an item makes it due, not only the end of the last one
    Column("strict", Boolean, nullable=False, server_default="false"),
    # its items are being cancelled
    Column("stopping", Boolean, nullable=False, server_default="false"),
    # its runs of workflows continue those of the run that this one retries
    Column("continues", Boolean, nullable=False, server_default="false"),
    # but this one of them forks its own, from the step at the end of the path
    Column("fork_path", Text),
    # since when `advance` has something to do
    timestamp("due_at"),
    timestamp("started_at"),
    timestamp("completed_at"),
    Column("error_code", Text),
    Column("error_message", Text),
    enum_check("status", StepStatus),
    Index("ix_step_runs_due", "due_at", **where("due_at IS NOT NULL")),
    postgresql_with=stored(dead=1_000, share=0.01, fill=50),
)

# How many items of a running step have not ended, and how those that have ended did. An item has
# the row with the number of its own modulo 32.
fan_ins = Table(
    "fan_ins",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("remaining", Integer, nullable=False),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("cancelled", Integer, nullable=False, server_default="0"),
    postgresql_with=stored(dead=5_000, share=0.01, fill=50),
)

# What an item of a step is: an execution, a run of a workflow, a question to a person, or what is
# known without. The answer to a question is the item's result.
step_items = Table(
    "step_items",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("item_no", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    # of this run, or of an earlier one whose work is not repeated
    Column("execution_id", Uuid),
    Column("child_run_id", Uuid),
    Column("approval_id", Uuid),
    # of an item without an execution or a run
    Column("status", Text),
    Column("result", JSON),
    Column("error_code", Text),
    Column("error_message", Text),
    # refers to what an earlier run has done
    Column("taken_over", Boolean, nullable=False, server_default="false"),
    postgresql_with=stored(dead=5_000, share=0.01),
)

# The ends of items, for those who follow a run: a row is written by the statement that ends the
# item, and never changed.
item_ends = Table(
    "item_ends",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    # the number of the transaction that ended the item
    Column("ended_xid", BigInteger, primary_key=True, autoincrement=False),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("item_no", Integer, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    # null for an item without an execution, or without a run below this one
    Column("execution_id", Uuid),
    Column("child_run_id", Uuid),
    postgresql_with=stored(dead=5_000, share=0.01),
)

# The limits of the runs that have not ended: who has a slot of a key, and who waits for one. A run
# without limits has no row; its rows are deleted with its end.
run_limits = Table(
    "run_limits",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("max", Integer, nullable=False),
    Column("policy", Text, nullable=False),
    Column("count", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    # its place among those that wait, before its age: 0 to go on, else less for a higher priority
    Column("place", SmallInteger, nullable=False),
    # since when it has this state
    timestamp("since", now=True),
    # of a limit of the workspace: its row has the number in effect
    Column("limit_id", Uuid),
    enum_check("policy", LimitPolicy),
    enum_check("count", LimitCount),
    enum_check("state", SlotState),
    Index("ix_run_limits_held", "workspace_id", "key", "run_id", **where("state = 'held'")),
    Index("ix_run_limits_waiting", "workspace_id", "key", "place", "run_id",
          **where("state = 'waiting'")),
    Index("ix_run_limits_policies", "workspace_id", "key",
          **where("state = 'waiting' AND policy <> 'queue'")),
    # in which lines of a limit runs wait
    Index("ix_run_limits_limit", "limit_id", "state", "key", **where("limit_id IS NOT NULL")),
    postgresql_with=stored(dead=1_000, share=0.01, fill=80),
)  # fmt: skip
