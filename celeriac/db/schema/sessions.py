"""Tables of sessions and approvals."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.schema.base import enum_check, metadata, timestamp, uuid_pk, where
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.domain.sessions import SessionStatus

sessions = Table(
    "sessions",
    metadata,
    uuid_pk(),
    Column("owner_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("runner", Text, nullable=False),
    Column("parent_id", Uuid),
    Column("external_id", Text),
    Column("state", JSONB),
    Column("status", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    timestamp("files_removed_at"),
    enum_check("status", SessionStatus),
    Index(None, "owner_id", "id"),
    Index("ix_sessions_deleted", "id", **where("status = 'deleted' AND files_removed_at IS NULL")),
    Index("ix_sessions_idle", "updated_at", **where("status IN ('ended', 'failed')")),
)

approvals = Table(
    "approvals",
    metadata,
    uuid_pk(),
    Column("execution_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
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
    Index(None, "owner_id", "id"),
    Index("ix_approvals_open", "expires_at", **where("status = 'open'")),
    Index("ix_approvals_unanswered", "owner_id", "id", **where("status = 'open'")),
    Index(
        "ix_approvals_unnotified", "notify_at", **where("status = 'open' AND notified_at IS NULL")
    ),
    Index("ix_approvals_budget", "key", **where("kind = 'budget' AND status = 'open'")),
)
