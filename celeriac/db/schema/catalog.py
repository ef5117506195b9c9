"""Tables of agents, tasks and workflows, and of their versions."""

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from celeriac.db.schema.base import metadata, table_of_ids, timestamp, where

specs = Table(
    "specs",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("body", JSON, nullable=False),
    timestamp("created_at", now=True),
)
"""The contents of versions. Equal contents are one row, which never changes.

The type keeps the order of fields: models write a result in the order of its schema's properties.
"""


def _versioned(name: str, *columns: Column[Any]) -> tuple[Table, Table]:
    """Return the table `{name}s` and that of its immutable versions.

    Deleted rows are kept, with `deleted_at` set, for executions that refer to them. Their names can
    be used again.
    """
    current = table_of_ids(
        f"{name}s",
        Column("workspace_id", Uuid, ForeignKey("workspaces.id"), nullable=False),
        Column("owner_id", Uuid, ForeignKey("users.id"), nullable=False),
        Column("name", Text, nullable=False),
        Column("description", Text, nullable=False, server_default=""),
        Column("current_version_id", Uuid, nullable=False),
        *columns,
        timestamp("created_at", now=True),
        timestamp("updated_at", now=True),
        timestamp("deleted_at"),
        Index(
            f"uq_{name}s_workspace_id_name",
            "workspace_id",
            "name",
            unique=True,
            **where("deleted_at IS NULL"),
        ),
    )
    versions = table_of_ids(
        f"{name}_versions",
        Column(f"{name}_id", Uuid, ForeignKey(f"{name}s.id"), nullable=False),
        Column("version", Integer, nullable=False),
        Column("spec_hash", LargeBinary, ForeignKey("specs.hash"), nullable=False),
        timestamp("created_at", now=True),
        UniqueConstraint(f"{name}_id", "version"),
    )
    return current, versions


agents, agent_versions = _versioned("agent")
tasks, task_versions = _versioned(
    "task",
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False, index=True),
    Column("active", Boolean, nullable=False, server_default="true"),
)

workflows, workflow_versions = _versioned("workflow")
