"""Who may do what, and what they did."""

from sqlalchemy import Column, ForeignKey, Index, Table, Text, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.models.base import identifier, metadata, moment, one_of
from celeriac.domain.accounts import Role

users = Table(
    "users",
    metadata,
    identifier(),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    moment("created_at", now=True),
    moment("disabled_at"),
    UniqueConstraint("name"),
    one_of("role", Role),
)

api_keys = Table(
    "api_keys",
    metadata,
    identifier(),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    moment("created_at", now=True),
    moment("expires_at"),
    moment("revoked_at"),
    moment("last_used_at"),
    UniqueConstraint("prefix"),
    one_of("role", Role),
    Index(None, "user_id"),
)

audit_logs = Table(
    "audit_logs",
    metadata,
    identifier(),
    moment("at", now=True),
    Column("actor_id", Uuid),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("request_id", Text),
    Column("details", JSONB, nullable=False, server_default="{}"),
    Index(None, "resource_type", "resource_id"),
    Index(None, "actor_id", "id"),
)
