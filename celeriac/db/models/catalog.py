"""Agents and tasks, each with its immutable versions."""

from sqlalchemy import Boolean, Column, ForeignKey, Integer, Table, Text, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from celeriac.db.models.base import identifier, metadata, moment

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
    UniqueConstraint("owner_id", "name"),
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
    UniqueConstraint("owner_id", "name"),
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
