"""Tables of users, workspaces, keys and the audit log."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.schema.base import enum_check, metadata, table_of_ids, timestamp, where
from celeriac.domain.accounts import Role

users = table_of_ids(
    "users",
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("disabled_at"),
    UniqueConstraint("name"),
    enum_check("role", Role),
)

workspaces = table_of_ids(
    "workspaces",
    Column("name", Text, nullable=False),
    # the user whose own workspace it is; every user has one
    Column("personal_of", Uuid, ForeignKey("users.id")),
    timestamp("created_at", now=True),
    # grows with each change of the workspace's limits
    Column("limits_revision", Integer, nullable=False, server_default="0"),
    # its history stays until retention removes it; its name is free
    timestamp("deleted_at"),
    UniqueConstraint("personal_of"),
    Index("uq_workspaces_name", "name", unique=True, **where("deleted_at IS NULL")),
    Index("ix_workspaces_deleted_at", "deleted_at", **where("deleted_at IS NOT NULL")),
)

memberships = Table(
    "memberships",
    metadata,
    Column("workspace_id", Uuid, ForeignKey("workspaces.id"), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id"), primary_key=True, index=True),
    Column("role", Text, nullable=False),
    timestamp("created_at", now=True),
    enum_check("role", Role),
)

api_keys = table_of_ids(
    "api_keys",
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("workspace_id", Uuid, ForeignKey("workspaces.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    # made with all rights of its user; stored, because the user's own role may be lowered later
    Column("unlimited", Boolean, nullable=False),
    timestamp("created_at", now=True),
    timestamp("expires_at"),
    timestamp("revoked_at"),
    timestamp("last_used_at"),
    # the key that it was made with; both are revoked together
    Column("parent_id", Uuid, ForeignKey("api_keys.id")),
    UniqueConstraint("prefix"),
    enum_check("role", Role),
    Index(None, "user_id"),
    Index(None, "workspace_id", "user_id"),
    Index(None, "parent_id"),
    Index("ix_api_keys_expiring", "expires_at", **where("revoked_at IS NULL")),
)

invitations = table_of_ids(
    "invitations",
    Column("workspace_id", Uuid, ForeignKey("workspaces.id"), nullable=False),
    # who made it, and with which key
    Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("key_id", Uuid, ForeignKey("api_keys.id")),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    timestamp("created_at", now=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    timestamp("accepted_at"),
    timestamp("revoked_at"),
    UniqueConstraint("prefix"),
    enum_check("role", Role),
    Index("ix_invitations_workspace_id_id", "workspace_id", "id"),
)

audit_logs = table_of_ids(
    "audit_logs",
    timestamp("at", now=True),
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
    Index(
        "ix_audit_logs_celery_tasks",
        "workspace_id",
        "id",
        postgresql_where=text("resource_type = 'celery_task'"),
    ),
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
    timestamp("at", now=True),
)
