"""Tables of inbound hooks, and of what was delivered to them."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    Text,
    Uuid,
)

from celeriac.db.schema.base import enum_check, stored, table_of_ids, timestamp, where
from celeriac.domain.hooks.model import HookDeliveryStatus, Verification

hooks = table_of_ids(
    "hooks",
    Column("workspace_id", Uuid, nullable=False),
    # who made it, and with whose rights it acts
    Column("owner_id", Uuid, nullable=False),
    # with which documents identify it
    Column("name", Text),
    Column("task_id", Uuid),
    Column("workflow_id", Uuid),
    Column("description", Text, nullable=False, server_default=""),
    Column("verification", Text, nullable=False),
    # null: the body is taken as it is
    Column("mapping", JSON(none_as_null=True)),
    # an expression
    Column("condition", Text),
    Column("per_minute", Integer, nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("secret_number", Integer, nullable=False, server_default="1"),
    # a given secret; others are derived from the id and the number
    Column("secret_sealed", LargeBinary),
    Column("previous_number", Integer),
    Column("previous_sealed", LargeBinary),
    timestamp("previous_until"),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    enum_check("verification", Verification),
    CheckConstraint("num_nonnulls(task_id, workflow_id) = 1", name="one_target"),
    Index(None, "workspace_id", "id"),
    Index("uq_hooks_workspace_id_name", "workspace_id", "name", unique=True),
)
"""URLs whose requests start work."""

hook_deliveries = table_of_ids(
    "hook_deliveries",
    Column("workspace_id", Uuid, nullable=False),
    Column("hook_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text),
    Column("verified", Boolean, nullable=False),
    # what the sender calls it
    Column("delivery_id", Text),
    # of the body, where the signature covers neither a name nor a time
    Column("digest", Text),
    Column("size", Integer, nullable=False),
    Column("execution_id", Uuid),
    Column("run_id", Uuid),
    timestamp("received_at", now=True),
    enum_check("status", HookDeliveryStatus),
    Index(None, "hook_id", "id"),
    Index("ix_hook_deliveries_few", "hook_id", "status", "verified", "id",
          **where("status <> 'accepted'")),
    Index("uq_hook_deliveries_delivery_id", "hook_id", "delivery_id", unique=True,
          **where("status = 'accepted' AND delivery_id IS NOT NULL")),
    Index("uq_hook_deliveries_digest", "hook_id", "digest", unique=True,
          **where("status = 'accepted' AND digest IS NOT NULL")),
    # of refused ones the last are kept, so rows die as they come
    postgresql_with=stored(dead=1_000, share=0.01),
)  # fmt: skip
"""Requests to hooks: those that have started something, and the last of all others."""
