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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from celeriac.db.schema.base import enum_check, stored, table_of_ids, timestamp, where
from celeriac.domain.webhooks import DeliveryStatus, PausedReason

webhook_endpoints = table_of_ids(
    "webhook_endpoints",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    # as execution.completed
    Column("events", ARRAY(Text), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("paused_reason", Text),
    timestamp("failing_since"),
    Column("secret_number", Integer, nullable=False, server_default="1"),
    # until then the secret before signs, too
    timestamp("previous_until"),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    enum_check("paused_reason", PausedReason),
    Index(None, "workspace_id", "id"),
    Index("ix_webhook_endpoints_active", "workspace_id", **where("active")),
)
"""Where a workspace has its events sent. Secrets are derived from the id and a number."""

deliveries = table_of_ids(
    "deliveries",
    Column("workspace_id", Uuid, nullable=False),
    # at most two of a lane are sent at once: the endpoint, or what stands for a callback's host
    Column("lane", Uuid, nullable=False),
    Column("endpoint_id", Uuid),
    # of a callback, which has no endpoint
    Column("url", Text),
    Column("event", Text, nullable=False),
    Column("execution_id", Uuid),
    Column("run_id", Uuid),
    Column("approval_id", Uuid),
    # what no other row says
    Column("data", JSONB),
    # names an event that is sent to an endpoint once
    Column("once", Text),
    # what is sent: the same text each time
    Column("body", Text),
    Column("status", Text, nullable=False, server_default=DeliveryStatus.PENDING.value),
    timestamp("created_at", now=True),
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # those since the delivery, or the request to send it again
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("lease_token", Uuid),
    timestamp("lease_until"),
    timestamp("attempted_at"),
    timestamp("delivered_at"),
    Column("status_code", Integer),
    Column("error", Text),
    Column("answer", Text),
    Column("duration_ms", Integer),
    enum_check("status", DeliveryStatus),
    Index("ix_deliveries_due", "lane", "available_at", **where("status = 'pending'")),
    Index("ix_deliveries_leased", "lane", **where("lease_until IS NOT NULL")),
    Index(None, "workspace_id", "id"),
    Index("ix_deliveries_undelivered", "workspace_id", "status", "id",
          **where("status <> 'delivered'")),
    Index(None, "endpoint_id", "id"),
    Index(None, "execution_id"),
    Index("uq_deliveries_once", "endpoint_id", "once", unique=True, **where("once IS NOT NULL")),
    # A queue: each row is inserted, updated a few times, and kept for weeks.
    postgresql_with=stored(dead=1_000, share=0.01),
)  # fmt: skip
"""What is to be sent to webhook endpoints and callbacks; written with what happened.

The ids are made by the database (`celeriac_uuid7`).
"""
