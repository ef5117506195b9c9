"""Tables of executions, events, model calls and workers."""

from sqlalchemy import (
    Boolean,
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
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, JSONB

from celeriac.db.schema.base import enum_check, metadata, timestamp, uuid_pk, where
from celeriac.domain.executions.model import TriggerType
from celeriac.domain.executions.states import Status

executions = Table(
    "executions",
    metadata,
    uuid_pk(),
    Column("owner_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("task_version_id", Uuid, nullable=False),
    Column("agent_version_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("trigger_type", Text, nullable=False),
    Column("execution_mode", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("queue", Text, nullable=False),
    Column("variables", JSONB, nullable=False),
    Column("origin_id", Uuid),
    Column("batch_id", Uuid),
    Column("session_id", Uuid),
    Column("options", JSONB),
    Column("request_id", Text),
    # times
    timestamp("created_at", now=True),
    timestamp("available_at", now=True),
    timestamp("queued_at"),
    timestamp("started_at"),
    timestamp("attempt_started_at"),
    timestamp("completed_at"),
    # attempts
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("crash_count", Integer, nullable=False, server_default="0"),
    Column("max_crashes", SmallInteger, nullable=False),
    Column("celery_task_id", Text),
    Column("worker_hostname", Text),
    Column("lease_token", Uuid),
    timestamp("lease_until"),
    timestamp("cancel_requested_at"),
    Column("cancel_requested_by", Text),
    Column("waiting_for", Text),
    timestamp("waiting_until"),
    # outcome
    Column("result", JSONB),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_details", JSONB),
    Column("progress_done", Double),
    Column("progress_total", Double),
    Column("progress_note", Text),
    # totals
    Column("event_seq", Integer, nullable=False, server_default="0"),
    # the last event batch that the current attempt has stored
    Column("batch_no", Integer, nullable=False, server_default="0"),
    Column("message_count", Integer, nullable=False, server_default="0"),
    Column("tool_call_count", Integer, nullable=False, server_default="0"),
    Column("model_call_count", Integer, nullable=False, server_default="0"),
    Column("input_tokens", BIGINT, nullable=False, server_default="0"),
    Column("output_tokens", BIGINT, nullable=False, server_default="0"),
    Column("cost", Numeric(18, 9), nullable=False, server_default="0"),
    enum_check("status", Status),
    enum_check("trigger_type", TriggerType),
    # Each partial index serves the statements that repeat its condition, and only those: to the
    # planner a nearly empty index looks cheap for every statement that its condition allows, and
    # the cached plan is still used with ten thousand rows (tests/integration/core/test_plans.py).
    Index("ix_executions_due", "queue", text("priority DESC"), "available_at",
          **where("status = 'pending'")),
    Index("ix_executions_sent", "queue", "queued_at",
          **where("status = 'queued' AND queued_at IS NOT NULL")),
    Index("ix_executions_leased", "lease_until",
          **where("status = 'running' AND lease_until IS NOT NULL")),
    Index("ix_executions_owner", "owner_id", "id"),
    Index("ix_executions_task", "task_id", "id"),
    Index("ix_executions_batch", "batch_id", "id", **where("batch_id IS NOT NULL")),
    Index("ix_executions_celery_task", "celery_task_id"),
    Index("ix_executions_trouble", "owner_id", "id", **where("status IN ('failed', 'cancelled')")),
    Index("ix_executions_live", "owner_id", "id",
          **where("status IN ('pending', 'queued', 'running', 'waiting') "
                  "AND completed_at IS NULL")),
    Index("ix_executions_parked", "waiting_until",
          **where("status = 'waiting' AND waiting_until IS NOT NULL")),
    Index("ix_executions_session", "session_id", "id", **where("session_id IS NOT NULL")),
    postgresql_with={"fillfactor": "80"},
)  # fmt: skip

events = Table(
    "events",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    timestamp("at", now=True),
    Column("data", JSONB, nullable=False),
)

model_calls = Table(
    "model_calls",
    metadata,
    uuid_pk(),
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
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    Index(None, "created_at"),
)


workers = Table(
    "workers",
    metadata,
    uuid_pk(),
    Column("hostname", Text, nullable=False, index=True),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    Column("memory_bytes", BIGINT, nullable=False, server_default="0"),
    Column("version", Text, nullable=False),
    # empty and NULL: a worker of an older release
    Column("queues", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("consuming", Boolean),
    Column("messages_dropped", BIGINT, nullable=False, server_default="0"),
    Column("unknown_tasks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # seconds before seen_at
    Column("unknown_tasks_ages", ARRAY(Double), nullable=False, server_default=text("'{}'")),
    Column("lacks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    timestamp("started_at", now=True),
    timestamp("seen_at", now=True),
    timestamp("stopped_at"),
)
"""One row for each process that runs executions (each prefork child has its own)."""
