"""The tables. `celeriac/db/migrations` makes them."""

from enum import Enum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    column,
    func,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.schema import SchemaItem

from celeriac.domain.accounts import Role
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.domain.budget_kinds import OnBudget, Period
from celeriac.domain.executions.model import TriggerType
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.reports import ReportFormat
from celeriac.domain.sessions import SessionStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *items: SchemaItem, **options: Any) -> Table:
    """Return a table whose primary key `id` is a UUIDv7 made by the application."""
    return Table(name, metadata, Column("id", Uuid, primary_key=True), *items, **options)


def _timestamp(name: str, *, now: bool = False) -> Column[Any]:
    """Return a column for a time: nullable, or with `now` required and set by the database."""
    if now:
        return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())
    return Column(name, DateTime(timezone=True), nullable=True)


def _enum_check(column: str, values: type[Enum]) -> CheckConstraint:
    """Return a check that `column` holds one of the enum's values."""
    listed = ", ".join(f"'{member.value}'" for member in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _where(condition: str) -> dict[str, Any]:
    """Return the argument that makes an index partial."""
    return {"postgresql_where": text(condition)}


schema_migrations = Table(
    "schema_migrations",
    metadata,
    Column("number", Integer, Identity(always=True), nullable=False),
    Column("revision", Text, primary_key=True),
    Column("phase", Text, nullable=False),
    _timestamp("applied_at", now=True),
)
"""The migrations that were applied. An older release reads here whether it may run on."""


def _stored(
    *, dead: int, share: float = 0, inserted: int | None = None, fill: int | None = None
) -> dict[str, str]:
    """Return the storage parameters of a table that changes much.

    It is vacuumed after `dead` rows and the `share` of its rows have died. PostgreSQL's own fifth
    is 20 million of 100 million rows: until then, the indexes of what is due and of what lives keep
    entries of rows that are gone. A frequent vacuum is cheap: it skips pages in which nothing has
    changed, and the indexes while fewer than 2 % of the pages have dead rows. It also comes after
    `inserted` new rows, so that a table that only grows is frozen in parts. `fill` leaves room on
    each page for new versions of its rows, for updates that write no index.
    """
    values: dict[str, object] = {
        "autovacuum_vacuum_scale_factor": share,
        "autovacuum_vacuum_threshold": dead,
    }
    if inserted is not None:
        values |= {
            "autovacuum_vacuum_insert_scale_factor": 0,
            "autovacuum_vacuum_insert_threshold": inserted,
        }
    if fill is not None:
        values["fillfactor"] = fill
    return {name: str(value) for name, value in values.items()}


users = _table(
    "users",
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    _timestamp("created_at", now=True),
    _timestamp("disabled_at"),
    UniqueConstraint("name"),
    _enum_check("role", Role),
)

workspaces = _table(
    "workspaces",
    Column("name", Text, nullable=False),
    # the user whose own workspace it is; every user has one
    Column("personal_of", Uuid, ForeignKey("users.id")),
    _timestamp("created_at", now=True),
    UniqueConstraint("name"),
    UniqueConstraint("personal_of"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("workspace_id", Uuid, ForeignKey("workspaces.id"), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id"), primary_key=True, index=True),
    Column("role", Text, nullable=False),
    _timestamp("created_at", now=True),
    _enum_check("role", Role),
)

api_keys = _table(
    "api_keys",
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("workspace_id", Uuid, ForeignKey("workspaces.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    # made with all rights of its user; stored, because the user's own role may be lowered later
    Column("unlimited", Boolean, nullable=False),
    _timestamp("created_at", now=True),
    _timestamp("expires_at"),
    _timestamp("revoked_at"),
    _timestamp("last_used_at"),
    # the key that it was made with; both are revoked together
    Column("parent_id", Uuid, ForeignKey("api_keys.id")),
    UniqueConstraint("prefix"),
    _enum_check("role", Role),
    Index(None, "user_id"),
    Index(None, "workspace_id", "user_id"),
    Index(None, "parent_id"),
)

audit_logs = _table(
    "audit_logs",
    _timestamp("at", now=True),
    Column("workspace_id", Uuid),
    Column("actor_id", Uuid),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("request_id", Text),
    Column("details", JSONB, nullable=False, server_default="{}"),
    Column("position", BigInteger, nullable=False, server_default=text("audit_position()")),
    Index(None, "resource_type", "resource_id"),
    Index(None, "workspace_id", "id"),
    Index(None, "actor_id", "id"),
    Index("ix_audit_logs_position", "position", unique=True),
)

audit_seals = Table(
    "audit_seals",
    metadata,
    Column("last_position", BigInteger, primary_key=True, autoincrement=False),
    Column("first_position", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("seal", LargeBinary, nullable=False),
    Column("key_hash", Text, nullable=False),
    _timestamp("at", now=True),
)


specs = Table(
    "specs",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("body", JSONB, nullable=False),
    _timestamp("created_at", now=True),
)
"""The contents of versions of agents and tasks. Equal contents are one row, which never changes."""


def _versioned(name: str, *columns: Column[Any]) -> tuple[Table, Table]:
    """Return the table `{name}s` and that of its immutable versions.

    Deleted rows are kept, with `deleted_at` set, for executions that refer to them. Their names can
    be used again.
    """
    current = _table(
        f"{name}s",
        Column("workspace_id", Uuid, ForeignKey("workspaces.id"), nullable=False),
        Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
        Column("name", Text, nullable=False),
        Column("description", Text, nullable=False, server_default=""),
        Column("current_version_id", Uuid, nullable=False),
        *columns,
        _timestamp("created_at", now=True),
        _timestamp("updated_at", now=True),
        _timestamp("deleted_at"),
        Index(
            f"uq_{name}s_workspace_id_name",
            "workspace_id",
            "name",
            unique=True,
            **_where("deleted_at IS NULL"),
        ),
    )
    versions = _table(
        f"{name}_versions",
        Column(f"{name}_id", Uuid, ForeignKey(f"{name}s.id"), nullable=False),
        Column("version", Integer, nullable=False),
        Column("spec_hash", LargeBinary, ForeignKey("specs.hash"), nullable=False),
        _timestamp("created_at", now=True),
        UniqueConstraint(f"{name}_id", "version"),
    )
    return current, versions


agents, agent_versions = _versioned("agent")
tasks, task_versions = _versioned(
    "task",
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False, index=True),
    Column("active", Boolean, nullable=False, server_default="true"),
)

# Always true. Only lists of a workspace say it, so no other statement is planned by their indexes,
# however empty these look (docs/adr/0036).
_OF_WORKSPACE = "max_crashes <> -1"
_NOT_COMPLETED = "status <> 'completed'"
_NOT_MANUAL = "trigger_type <> 'manual'"
_FAILED = "error_code IS NOT NULL"

executions = _table(
    "executions",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("task_version_id", Uuid, nullable=False),
    # of that version: an agent's executions are found whatever version they run
    Column("agent_id", Uuid, nullable=False),
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
    _timestamp("created_at", now=True),
    _timestamp("available_at", now=True),
    _timestamp("queued_at"),
    _timestamp("started_at"),
    _timestamp("attempt_started_at"),
    _timestamp("completed_at"),
    # attempts
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("crash_count", Integer, nullable=False, server_default="0"),
    Column("max_crashes", SmallInteger, nullable=False),
    # of the last message; leads to the execution by its primary key (`of_celery_task`)
    Column("celery_task_id", Uuid(as_uuid=False)),
    # the worker process that has the current attempt, or had the last one
    Column("worker_id", Uuid),
    Column("worker_hostname", Text),
    Column("lease_token", Uuid),
    _timestamp("cancel_requested_at"),
    Column("cancel_requested_by", Text),
    Column("waiting_for", Text),
    _timestamp("waiting_until"),
    # of a pending row; NULL: it may run
    Column("held", Text),
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
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost", Numeric(18, 9), nullable=False, server_default="0"),
    _enum_check("status", Status),
    _enum_check("trigger_type", TriggerType),
    # the rescue finds running executions by their workers
    CheckConstraint("status <> 'running' OR worker_id IS NOT NULL", name="running_has_worker"),
    _enum_check("held", Held),
    # Each partial index serves the statements that repeat its condition, and only those: to the
    # planner a nearly empty index looks cheap for every statement that its condition allows, and
    # the cached plan is still used with ten thousand rows
    # (tests/integration/services/test_plans.py).
    # a batch is due at one time: a posting list of equal keys is read whole, and with it every
    # entry that was claimed already, until all of its entries are dead
    Index("ix_executions_due", "queue", text("priority DESC"), "available_at",
          postgresql_with={"deduplicate_items": "off"},
          **_where("status = 'pending' AND held IS NULL")),
    Index("ix_executions_delayed", "available_at",
          **_where("status = 'pending' AND held = 'time'")),
    Index("ix_executions_sent", "queue", "queued_at",
          **_where("status = 'queued' AND queued_at IS NOT NULL")),
    Index("ix_executions_worker", "worker_id",
          **_where("status = 'running' AND worker_id IS NOT NULL")),
    Index("ix_executions_workspace", "workspace_id", "id"),
    Index("ix_executions_task", "task_id", "id"),
    Index("ix_executions_agent", "agent_id", "id"),
    Index("ix_executions_batch", "batch_id", "id", **_where("batch_id IS NOT NULL")),
    # Lists of a workspace by what is rare.
    Index("ix_executions_status", "workspace_id", "status", "id",
          **_where(f"{_NOT_COMPLETED} AND {_OF_WORKSPACE}")),
    Index("ix_executions_trigger", "workspace_id", "trigger_type", "id",
          **_where(f"{_NOT_MANUAL} AND {_OF_WORKSPACE}")),
    Index("ix_executions_error", "workspace_id", "error_code", "id",
          **_where(f"{_FAILED} AND {_OF_WORKSPACE}")),
    Index("ix_executions_origin", "origin_id", "id", **_where("origin_id IS NOT NULL")),
    Index("ix_executions_parked", "waiting_until",
          **_where("status = 'waiting' AND waiting_until IS NOT NULL")),
    Index("ix_executions_session", "session_id", "id", **_where("session_id IS NOT NULL")),
    # An execution leaves two dead rows at least: 10,000 are ten seconds at 500 executions a second.
    # Batches of events update only what no index has: a fifth of each page is for those versions.
    postgresql_with=_stored(dead=10_000, inserted=100_000, fill=80),
)  # fmt: skip

events = Table(
    "events",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    _timestamp("at", now=True),
    Column("data", JSONB, nullable=False),
    # Only inserted, and deleted in their order: two minutes of 500 executions a second.
    postgresql_with=_stored(dead=250_000, inserted=250_000),
)

model_calls = _table(
    "model_calls",
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    _timestamp("at", now=True),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("finish_reason", Text),
    Column("cost", Numeric(18, 9)),
    postgresql_with=_stored(dead=250_000, inserted=250_000),
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
    _timestamp("created_at", now=True),
    Index(None, "created_at"),
)

workers = _table(
    "workers",
    Column("hostname", Text, nullable=False, index=True),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    Column("memory_bytes", BigInteger, nullable=False, server_default="0"),
    Column("version", Text, nullable=False),
    # empty and NULL: a worker of an older release
    Column("queues", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("consuming", Boolean),
    Column("messages_dropped", BigInteger, nullable=False, server_default="0"),
    Column("unknown_tasks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # seconds before seen_at
    Column("unknown_tasks_ages", ARRAY(Double), nullable=False, server_default=text("'{}'")),
    Column("lacks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _timestamp("started_at", now=True),
    _timestamp("seen_at", now=True),
    _timestamp("stopped_at"),
    # No index: a renewal must stay a HOT update.
    _timestamp("lease_until", now=True),
    _timestamp("lost_at"),
    # Few rows, each updated every few seconds in columns that no index has: on pages half empty
    # most versions are removed by the next update, without a vacuum.
    postgresql_with=_stored(dead=1_000, fill=50),
)
"""One row for each process that runs executions (each prefork child has its own).

A process whose `lost_at` or `stopped_at` is set claims and renews nothing under this row again.
"""

sessions = _table(
    "sessions",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("runner", Text, nullable=False),
    Column("parent_id", Uuid),
    Column("external_id", Text),
    Column("state", JSONB),
    Column("status", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    _timestamp("created_at", now=True),
    _timestamp("updated_at", now=True),
    _timestamp("files_removed_at"),
    # the last save that is stored
    Column("save_no", Integer, nullable=False, server_default="0"),
    Column("message_count", Integer, nullable=False, server_default="0"),
    _enum_check("status", SessionStatus),
    Index(None, "workspace_id", "id"),
    Index("ix_sessions_deleted", "id", **_where("status = 'deleted' AND files_removed_at IS NULL")),
    Index("ix_sessions_idle", "updated_at", **_where("status IN ('ended', 'failed')")),
)

session_messages = Table(
    "session_messages",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    # JSON, not JSONB: it is read as it was written, and as a whole
    Column("body", JSON, nullable=False),
)
"""The conversations of sessions: the first `message_count` messages, numbered from 1.

Rows are appended. They are replaced only where a runner rewrites its history.
"""

approvals = _table(
    "approvals",
    Column("execution_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("tool", Text),
    # JSON, not JSONB: people read it in its original order
    Column("arguments", JSON, nullable=False),
    Column("schema", JSON),
    Column("status", Text, nullable=False, server_default=ApprovalStatus.OPEN.value),
    Column("on_expiry", Text, nullable=False),
    Column("default", JSONB),
    _timestamp("created_at", now=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("approved", Boolean),
    Column("value", JSONB),
    Column("note", Text),
    _timestamp("answered_at"),
    Column("answered_by", Text),
    _timestamp("notified_at"),
    Column("notify_at", DateTime(timezone=True), server_default=text("now()")),
    Column("notify_count", Integer, nullable=False, server_default=text("0")),
    Column("links_revoked", Integer, nullable=False, server_default=text("0")),
    _enum_check("status", ApprovalStatus),
    _enum_check("kind", QuestionKind),
    _enum_check("on_expiry", OnExpiry),
    UniqueConstraint("execution_id", "key"),
    Index(None, "workspace_id", "id"),
    Index("ix_approvals_open", "expires_at", **_where("status = 'open'")),
    Index("ix_approvals_unanswered", "workspace_id", "id", **_where("status = 'open'")),
    Index(
        "ix_approvals_unnotified", "notify_at", **_where("status = 'open' AND notified_at IS NULL")
    ),
    Index("ix_approvals_budget", "key", **_where("kind = 'budget' AND status = 'open'")),
    # The indexes of open questions are read every second.
    postgresql_with=_stored(dead=1_000, share=0.01),
)


def _dollars(name: str, *, required: bool = True) -> Column[object]:
    if required:
        return Column(name, Numeric(24, 9), nullable=False, server_default="0")
    return Column(name, Numeric(24, 9))


def _count(name: str) -> Column[object]:
    return Column(name, BigInteger, nullable=False, server_default="0")


budgets = _table(
    "budgets",
    Column("scope", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("period", Text, nullable=False),
    _dollars("max_cost", required=False),
    Column("max_tokens", BigInteger),
    Column("on_budget", Text, nullable=False),
    _timestamp("created_at", now=True),
    _timestamp("updated_at", now=True),
    _enum_check("period", Period),
    _enum_check("on_budget", OnBudget),
    UniqueConstraint("subject_id", "period"),
    Index(None, "workspace_id", "id"),
)
"""Budgets of tasks and users. An execution's own budget is in its task or its options."""

budget_windows = Table(
    "budget_windows",
    metadata,
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, primary_key=True),
    _dollars("spent_cost"),
    _count("spent_tokens"),
    _dollars("reserved_cost"),
    _count("reserved_tokens"),
    _dollars("extra_cost"),
    _count("extra_tokens"),
    Column("raised", Integer, nullable=False, server_default="0"),
    # Each call under a budget updates its few rows twice; no index has what changes.
    postgresql_with=_stored(dead=1_000, share=0.01, fill=50),
)
"""One row for each budget and day, month or execution. Every reservation locks it."""

budget_reservations = _table(
    "budget_reservations",
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cost", Numeric(24, 9), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    _timestamp("created_at", now=True),
    _timestamp("released_at"),
    Index(None, "released_at", **_where("released_at IS NOT NULL")),
    # A queue: each row is inserted, updated and deleted within the hour.
    postgresql_with=_stored(dead=5_000, share=0.01),
)
"""Reservations of running model calls. The keeper finds orphaned ones by their attempt.

A row with `released_at` reserves nothing. It is kept for a while, so that a repeated charge under
its id has no effect.
"""


def _usage_counts() -> tuple[Column[object], ...]:
    return (
        _count("calls"),
        _count("unpriced_calls"),
        _count("input_tokens"),
        _count("output_tokens"),
        _count("cached_tokens"),
        _dollars("cost"),
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
    postgresql_with=_stored(dead=1_000),
)
"""Usage that workers have appended and the keeper has not yet folded into `usage_days`."""

usage_entries = table(
    "usage_entries", *(column(each.name, each.type) for each in usage_days.columns)
)
"""The view of all usage: totals and deltas. A key may have several rows; readers add them up."""

# the id is that of the execution, if one recorded it
cassettes = _table(
    "cassettes",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("execution_id", Uuid),
    Column("interactions", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    _timestamp("created_at", now=True),
    Index(None, "workspace_id", "id"),
    Index(
        "ix_cassettes_uploaded",
        "workspace_id",
        "digest",
        unique=True,
        **_where("execution_id IS NULL"),
    ),
)

reports = Table(
    "reports",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    _timestamp("created_at", now=True),
    Column("content", LargeBinary, nullable=False),
    _enum_check("format", ReportFormat),
)

webhook_endpoints = _table(
    "webhook_endpoints",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    # as execution.completed
    Column("events", ARRAY(Text), nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    _timestamp("created_at", now=True),
    Index("ix_webhook_endpoints_active", "workspace_id", **_where("active")),
)

deliveries = _table(
    "deliveries",
    Column("endpoint_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("event", Text, nullable=False),
    _timestamp("created_at", now=True),
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _timestamp("delivered_at"),
    Index("ix_deliveries_due", "available_at", **_where("delivered_at IS NULL")),
)
"""What is to be sent to webhook endpoints; written with the end of the execution.

The ids are made by the database (`celeriac_uuid7`).
"""
