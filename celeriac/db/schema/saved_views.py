"""The table of saved views (docs/adr/0073)."""

from sqlalchemy import JSON, Boolean, Column, Index, Text, Uuid

from celeriac.db.schema.base import table_of_ids, timestamp, where

views = table_of_ids(
    "views",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    Column("shared", Boolean, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("filter", JSON, nullable=False),
    Index("uq_views_private", "workspace_id", "owner_id", "name", unique=True,
          **where("NOT shared")),
    Index("uq_views_shared", "workspace_id", "name", unique=True, **where("shared")),
)  # fmt: skip
"""Filters of executions under names: at most 100 shared ones, and 100 of each user."""
