"""Tables of webhook endpoints and deliveries."""

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY

from celeriac.db.schema.base import table_of_ids, timestamp, where

webhook_endpoints = table_of_ids(
    "webhook_endpoints",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    # as execution.completed
    Column("events", ARRAY(Text), nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    timestamp("created_at", now=True),
    Index("ix_webhook_endpoints_active", "workspace_id", **where("active")),
)

deliveries = table_of_ids(
    "deliveries",
    Column("endpoint_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("event", Text, nullable=False),
    timestamp("created_at", now=True),
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    timestamp("delivered_at"),
    Index("ix_deliveries_due", "available_at", **where("delivered_at IS NULL")),
)
"""What is to be sent to webhook endpoints; written with the end of the execution.

The ids are made by the database (`celeriac_uuid7`).
"""
