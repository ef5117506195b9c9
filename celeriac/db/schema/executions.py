"""Tables of executions and their events."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from celeriac.db.schema.base import (
    enum_check,
    metadata,
    partitioned,
    table_of_ids,
    timestamp,
    where,
)
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.executions.triggers import TriggerType

# Always true. Only lists of a workspace say it, so no other statement is planned by their indexes,
# however empty these look (docs/adr/0036).
_OF_WORKSPACE = "max_crashes <> -1"
_NOT_COMPLETED = "status <> 'completed'"
_NOT_MANUAL = "trigger_type <> 'manual'"
_FAILED = "error_code IS NOT NULL"

OF_WORKFLOW = "coalesce(workflow_id, '00000000-0000-0000-0000-000000000000'::uuid)"
"""The workflow of an execution; an id that no workflow has for none."""

executions = table_of_ids(
    "executions",
    # of fixed width first, the widest first, so that none needs padding
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("task_version_id", Uuid, nullable=False),
    # of that version: an agent's executions are found whatever version they run
    Column("agent_id", Uuid, nullable=False),
    Column("agent_version_id", Uuid, nullable=False),
    Column("origin_id", Uuid),
    Column("batch_id", Uuid),
    Column("session_id", Uuid),
    # of a child: the execution that started it, and the first of the tree
    Column("parent_id", Uuid),
    Column("root_id", Uuid),
    # of the last message; leads to the execution by its primary key (`of_celery_task`)
    Column("celery_task_id", Uuid(as_uuid=False)),
    # the worker process that has the current attempt, or had the last one
    Column("worker_id", Uuid),
    Column("lease_token", Uuid),
    # the run of a workflow, and the step and its item, that it is
    Column("run_id", Uuid),
    # of that run: claims look for pauses of it
    Column("workflow_id", Uuid),
    timestamp("created_at", now=True),
    timestamp("available_at", now=True),
    timestamp("queued_at"),
    timestamp("started_at"),
    timestamp("attempt_started_at"),
    # when an attempt last stored events or a step, or got an answer
    timestamp("active_at"),
    timestamp("completed_at"),
    # when it last began to wait
    timestamp("parked_at"),
    timestamp("waiting_until"),
    timestamp("cancel_requested_at"),
    # it is cancelled if its first attempt has not begun by then
    timestamp("expires_at"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    # of the input tokens, those that the provider had in its cache
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("progress_done", Double),
    Column("progress_total", Double),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("crash_count", Integer, nullable=False, server_default="0"),
    Column("event_seq", Integer, nullable=False, server_default="0"),
    # the last event batch that the current attempt has stored
    Column("batch_no", Integer, nullable=False, server_default="0"),
    # of a child: the step of its parent
    Column("parent_step", Integer),
    Column("message_count", Integer, nullable=False, server_default="0"),
    Column("tool_call_count", Integer, nullable=False, server_default="0"),
    Column("denied_tool_count", Integer, nullable=False, server_default="0"),
    Column("model_call_count", Integer, nullable=False, server_default="0"),
    Column("item_no", Integer),
    Column("priority", SmallInteger, nullable=False),
    Column("max_crashes", SmallInteger, nullable=False),
    Column("step_no", SmallInteger),
    # whether the model's token limit cut the result off
    Column("truncated", Boolean, nullable=False, server_default="false"),
    # whether it completed and had done nothing (`celeriac.domain.executions.flags`)
    Column("no_op", Boolean, nullable=False, server_default="false"),
    Column("status", Text, nullable=False),
    # of a pending row; NULL: it may run
    Column("held", Text),
    Column("trigger_type", Text, nullable=False),
    Column("execution_mode", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("cost", Numeric(18, 9), nullable=False, server_default="0"),
    Column("worker_hostname", Text),
    Column("request_id", Text),
    # NULL: the defaults
    Column("options", JSONB),
    Column("waiting_for", Text),
    Column("cancel_requested_by", Text),
    Column("error_code", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    # of a failed row (`celeriac.domain.fingerprint`)
    Column("error_fingerprint", Text),
    Column("progress_note", Text),
    # of the span that has submitted it; NULL while traces are off
    Column("traceparent", Text),
    # of its limits, in their order; NULL without limits
    Column("limit_keys", ARRAY(Text)),
    # NULL without labels; `execution_labels` has a row for each
    Column("labels", JSON),
    enum_check("status", Status),
    enum_check("trigger_type", TriggerType),
    # the rescue finds running executions by their workers
    CheckConstraint("status <> 'running' OR worker_id IS NOT NULL", name="running_has_worker"),
    enum_check("held", Held),
    # Each partial index serves the statements that repeat its condition, and only those: to the
    # planner a nearly empty index looks cheap for every statement that its condition allows, and
    # the cached plan is still used with ten thousand rows
    # (tests/integration/services/test_plans.py).
    # a batch is due at one time: a posting list of equal keys is read whole, and with it every
    # entry that was claimed already, until all of its entries are dead
    Index("ix_executions_due", "queue", text("priority DESC"), "workspace_id", "owner_id",
          "available_at",
          postgresql_with={"deduplicate_items": "off"},
          **where("status = 'pending' AND held IS NULL")),
    Index("ix_executions_delayed", "available_at",
          **where("status = 'pending' AND held = 'time'")),
    # the paused rows that were set aside, in the order of the resumed ones
    Index("ix_executions_paused", "workspace_id", "task_id", "queue", text(OF_WORKFLOW),
          text("priority DESC"), "available_at", **where("status = 'pending' AND held = 'paused'")),
    # what has not ended of a run, and of a step those that are held
    Index("ix_executions_run", "run_id", "step_no", "held", "item_no",
          **where("run_id IS NOT NULL AND completed_at IS NULL")),
    Index("ix_executions_sent", "queue", "queued_at",
          **where("status = 'queued' AND queued_at IS NOT NULL")),
    Index("ix_executions_worker", "worker_id",
          **where("status = 'running' AND worker_id IS NOT NULL")),
    Index("ix_executions_workspace", "workspace_id", "id"),
    Index("ix_executions_task", "task_id", "id"),
    Index("ix_executions_agent", "agent_id", "id"),
    Index("ix_executions_batch", "batch_id", "id", **where("batch_id IS NOT NULL")),
    # Lists of a workspace by what is rare.
    Index("ix_executions_status", "workspace_id", "status", "id",
          **where(f"{_NOT_COMPLETED} AND {_OF_WORKSPACE}")),
    Index("ix_executions_trigger", "workspace_id", "trigger_type", "id",
          **where(f"{_NOT_MANUAL} AND {_OF_WORKSPACE}")),
    Index("ix_executions_error", "workspace_id", "error_code", "id",
          **where(f"{_FAILED} AND {_OF_WORKSPACE}")),
    Index("ix_executions_failure", "task_id", "error_fingerprint", "id",
          **where("error_fingerprint IS NOT NULL")),
    # Lists of a workspace by flag.
    Index("ix_executions_no_op", "workspace_id", "id", **where(f"no_op AND {_OF_WORKSPACE}")),
    Index("ix_executions_denied", "workspace_id", "id",
          **where(f"denied_tool_count > 0 AND {_OF_WORKSPACE}")),
    Index("ix_executions_truncated", "workspace_id", "id",
          **where(f"truncated AND {_OF_WORKSPACE}")),
    Index("ix_executions_origin", "origin_id", "id", **where("origin_id IS NOT NULL")),
    Index("ix_executions_parent", "parent_id", "id", **where("parent_id IS NOT NULL")),
    # which siblings run, and which is the next to run
    Index("ix_executions_siblings", "parent_id", "parent_step", "held", "id",
          **where("parent_id IS NOT NULL AND completed_at IS NULL")),
    Index("ix_executions_parked", "waiting_until",
          **where("status = 'waiting' AND waiting_until IS NOT NULL")),
    Index("ix_executions_expiring", "expires_at",
          **where("expires_at IS NOT NULL AND started_at IS NULL AND completed_at IS NULL")),
    Index("ix_executions_session", "session_id", "id", **where("session_id IS NOT NULL")),
    # An execution leaves two dead rows at least: 10,000 are ten seconds at 500 executions a second.
    # Batches of events update only what no index has: a fifth of each page is for those versions.
    **partitioned("id", dead=10_000, inserted=100_000, fill=80),
)  # fmt: skip

execution_inputs = Table(
    "execution_inputs",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("variables", JSON, nullable=False),
    **partitioned("execution_id", dead=100_000, inserted=100_000),
)
"""What executions are given. An execution without a row has no variables."""

execution_results = Table(
    "execution_results",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("result", JSON),
    Column("error_details", JSON),
    **partitioned("execution_id", dead=100_000, inserted=100_000),
)
"""What executions have produced: the result, or details of the last error.

Written at the end of an execution, and by each attempt that fails before. An execution without a
row has neither.
"""

events = Table(
    "events",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    timestamp("at", now=True),
    # JSON, not JSONB: agents and their authors give what it says, in an order
    Column("data", JSON, nullable=False),
    # Only inserted, and deleted in their order: two minutes of 500 executions a second.
    **partitioned("execution_id", dead=250_000, inserted=250_000),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("owner_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    Index(None, "created_at"),
)
