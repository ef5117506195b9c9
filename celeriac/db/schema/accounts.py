"""Tables of users, API keys and the audit trail."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

from celeriac.db.schema.base import enum_check, metadata, timestamp, uuid_pk
from celeriac.domain.accounts import Role

users = Table(
    "users",
    metadata,
    uuid_pk(),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("disabled_at"),
    UniqueConstraint("name"),
    enum_check("role", Role),
)

api_keys = Table(
    "api_keys",
    metadata,
    uuid_pk(),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("expires_at"),
    timestamp("revoked_at"),
    timestamp("last_used_at"),
    # the key that it was made with; both are revoked together
    Column("parent_id", Uuid, ForeignKey("api_keys.id")),
    UniqueConstraint("prefix"),
    enum_check("role", Role),
    Index(None, "user_id"),
    Index(None, "parent_id"),
)

audit_logs = Table(
    "audit_logs",
    metadata,
    uuid_pk(),
    timestamp("at", now=True),
    Column("actor_id", Uuid),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("request_id", Text),
    Column("details", JSONB, nullable=False, server_default="{}"),
    Column("position", BigInteger, nullable=False, server_default=text("audit_position()")),
    Index(None, "resource_type", "resource_id"),
    Index(None, "actor_id", "id"),
    Index("ix_audit_logs_position", "position", unique=True),
)

audit_seals = Table(
    "audit_seals",
    metadata,
    Column("last_position", BigInteger, primary_key=True, autoincrement=False),
    Column("first_position", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("digest", BYTEA, nullable=False),
    Column("previous", BYTEA, nullable=False),
    Column("seal", BYTEA, nullable=False),
    Column("key_hash", Text, nullable=False),
    timestamp("at", now=True),
)
