"""Agents and tasks, each with its immutable versions.

What was deleted stays, with `deleted_at` set, for the executions that name it. Its name is free.
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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.models.base import identifier, metadata, moment

_THERE = text("deleted_at IS NULL")

agents = Table(
    "agents",
    metadata,
    identifier(),
    Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("current_version_id", Uuid, nullable=False),
    moment("created_at", now=True),
    moment("updated_at", now=True),
    moment("deleted_at"),
    Index("uq_agents_owner_id_name", "owner_id", "name", unique=True, postgresql_where=_THERE),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    identifier(),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    moment("created_at", now=True),
    UniqueConstraint("agent_id", "version"),
)

tasks = Table(
    "tasks",
    metadata,
    identifier(),
    Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("current_version_id", Uuid, nullable=False),
    moment("created_at", now=True),
    moment("updated_at", now=True),
    moment("deleted_at"),
    Index("uq_tasks_owner_id_name", "owner_id", "name", unique=True, postgresql_where=_THERE),
)

task_versions = Table(
    "task_versions",
    metadata,
    identifier(),
    Column("task_id", Uuid, ForeignKey("tasks.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    moment("created_at", now=True),
    UniqueConstraint("task_id", "version"),
)
