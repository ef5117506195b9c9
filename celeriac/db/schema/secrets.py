"""The table of secrets (docs/adr/0078)."""

from sqlalchemy import JSON, CheckConstraint, Column, Index, Integer, LargeBinary, Text, Uuid

from celeriac.db.schema.base import enum_check, table_of_ids, timestamp
from celeriac.domain.secrets.model import SecretSource

secrets = table_of_ids(
    "secrets",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_by", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("worker_source", Text),
    # the app whose tokens are made with the value
    Column("github_app", JSON(none_as_null=True)),
    Column("description", Text, nullable=False, server_default=""),
    # the encrypted value
    Column("sealed", LargeBinary),
    enum_check("source", SecretSource),
    CheckConstraint(
        "(source = 'stored') = (sealed IS NOT NULL) "
        "AND (source = 'worker') = (worker_source IS NOT NULL) "
        "AND (github_app IS NULL OR source = 'stored')",
        name="value_somewhere",
    ),
    Index(None, "workspace_id", "id"),
    Index("uq_secrets_workspace_id_name", "workspace_id", "name", unique=True),
)
"""Secrets of workspaces: encrypted values, and names of what workers read on their machines."""
