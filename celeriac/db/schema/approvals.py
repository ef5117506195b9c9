"""Table of questions to people."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from celeriac.db.schema.base import enum_check, stored, table_of_ids, timestamp, where
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind

approvals = table_of_ids(
    "approvals",
    # Of an execution, or of a step of a workflow run.
    Column("execution_id", Uuid),
    Column("task_id", Uuid),
    Column("run_id", Uuid),
    Column("workflow_id", Uuid),
    Column("step_no", SmallInteger),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("attempt", Integer),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("tool", Text),
    # JSON, not JSONB: people read it in its original order
    Column("arguments", JSON, nullable=False),
    Column("schema", JSON),
    Column("status", Text, nullable=False, server_default=ApprovalStatus.OPEN.value),
    Column("on_expiry", Text, nullable=False),
    Column("default", JSON),
    timestamp("created_at", now=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("approved", Boolean),
    Column("value", JSON),
    Column("note", Text),
    timestamp("answered_at"),
    Column("answered_by", Text),
    timestamp("notified_at"),
    Column("notify_at", DateTime(timezone=True), server_default=text("now()")),
    Column("notify_count", Integer, nullable=False, server_default=text("0")),
    Column("links_revoked", Integer, nullable=False, server_default=text("0")),
    enum_check("status", ApprovalStatus),
    enum_check("kind", QuestionKind),
    enum_check("on_expiry", OnExpiry),
    CheckConstraint(
        "num_nonnulls(execution_id, task_id, attempt)"
        " = CASE WHEN run_id IS NULL THEN 3 ELSE 0 END"
        " AND num_nonnulls(run_id, workflow_id, step_no)"
        " = CASE WHEN run_id IS NULL THEN 0 ELSE 3 END",
        name="asker",
    ),
    UniqueConstraint("execution_id", "key"),
    Index("ix_approvals_run", "run_id", "step_no", unique=True, **where("run_id IS NOT NULL")),
    Index(None, "workspace_id", "id"),
    Index("ix_approvals_open", "expires_at", **where("status = 'open'")),
    Index("ix_approvals_unanswered", "workspace_id", "id", **where("status = 'open'")),
    Index(
        "ix_approvals_unnotified", "notify_at", **where("status = 'open' AND notified_at IS NULL")
    ),
    Index("ix_approvals_budget", "key", **where("kind = 'budget' AND status = 'open'")),
    # The indexes of open questions are read every second.
    postgresql_with=stored(dead=1_000, share=0.01),
)
