"""Table of questions to people."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.schema.base import enum_check, stored, table_of_ids, timestamp, where
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind

approvals = table_of_ids(
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
    timestamp("created_at", now=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("approved", Boolean),
    Column("value", JSONB),
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
    UniqueConstraint("execution_id", "key"),
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
