"""Tables of agents and tasks, each with its immutable versions.

Deleted rows are kept, with `deleted_at` set, for executions that refer to them. Their names can be
used again.
"""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.schema.base import metadata, timestamp, uuid_pk, where

_EXISTS = where("deleted_at IS NULL")

agents = Table(
    "agents",
    metadata,
    uuid_pk(),
    Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("current_version_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    timestamp("deleted_at"),
    Index("uq_agents_owner_id_name", "owner_id", "name", unique=True, **_EXISTS),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    uuid_pk(),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    timestamp("created_at", now=True),
    UniqueConstraint("agent_id", "version"),
)

tasks = Table(
    "tasks",
    metadata,
    uuid_pk(),
    Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("current_version_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    timestamp("deleted_at"),
    Index("uq_tasks_owner_id_name", "owner_id", "name", unique=True, **_EXISTS),
)

task_versions = Table(
    "task_versions",
    metadata,
    uuid_pk(),
    Column("task_id", Uuid, ForeignKey("tasks.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    timestamp("created_at", now=True),
    UniqueConstraint("task_id", "version"),
)
