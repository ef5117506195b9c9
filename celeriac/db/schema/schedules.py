"""Tables of schedules and their fires."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Text,
    Uuid,
    text,
)

from celeriac.db.schema.base import enum_check, table_of_ids, timestamp, where
from celeriac.domain.schedules.model import FireKind, FireStatus, SkipReason
from celeriac.domain.schedules.policies import Misfire, Overlap

schedules = table_of_ids(
    "schedules",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("task_id", Uuid),
    Column("workflow_id", Uuid),
    Column("input", JSON, nullable=False),
    Column("cron", Text),
    Column("every_seconds", Integer),
    timestamp("at"),
    Column("zone", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("misfire", Text, nullable=False),
    Column("catch_up", Integer, nullable=False),
    Column("window_seconds", Integer, nullable=False),
    Column("jitter_seconds", Integer, nullable=False),
    # a fire that starts later than this is reported to webhooks
    Column("late_seconds", Integer, nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("anchor_at", DateTime(timezone=True), nullable=False),
    timestamp("next_fire_at"),
    timestamp("due_at"),
    Column("revision", Integer, nullable=False, server_default="1"),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    CheckConstraint("num_nonnulls(task_id, workflow_id) = 1", name="one_target"),
    CheckConstraint("num_nonnulls(cron, every_seconds, at) = 1", name="one_timing"),
    enum_check("overlap", Overlap),
    enum_check("misfire", Misfire),
    Index("uq_schedules_workspace_id_name", "workspace_id", "name", unique=True),
    Index(None, "workspace_id", "id"),
    Index("ix_schedules_due", "due_at", **where("active AND due_at IS NOT NULL")),
)
"""When tasks and workflows start by themselves."""

schedule_fires = table_of_ids(
    "schedule_fires",
    Column("workspace_id", Uuid, nullable=False),
    Column("schedule_id", Uuid, nullable=False),
    # as whom it starts
    Column("owner_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("scheduled_at", DateTime(timezone=True), nullable=False),
    # the policy that decided about it
    Column("overlap", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("error", Text),
    Column("count", Integer, nullable=False, server_default="1"),
    timestamp("last_at"),
    Column("execution_id", Uuid),
    Column("run_id", Uuid),
    # whether what it has started may still run; set to false at a later fire
    Column("open", Boolean, nullable=False, server_default="false"),
    timestamp("started_at"),
    timestamp("created_at", now=True),
    enum_check("kind", FireKind),
    enum_check("overlap", Overlap),
    enum_check("status", FireStatus),
    enum_check("reason", SkipReason),
    Index("uq_schedule_fires_scheduled", "schedule_id", "scheduled_at", unique=True,
          **where("kind = 'scheduled'")),
    Index("uq_schedule_fires_happening", "schedule_id", "scheduled_at", unique=True,
          **where("kind <> 'manual' AND status <> 'skipped'")),
    Index(None, "schedule_id", "id"),
    Index(None, "schedule_id", "status", "id"),
    Index("ix_schedule_fires_open", "schedule_id", "id", **where("open")),
    Index("ix_schedule_fires_waiting", "schedule_id", text("kind DESC"), "id",
          **where("status = 'waiting'")),
)  # fmt: skip
"""Each fire, and those that have not happened: some in a row are one row.

A time fires once, by the schedule or by a backfill.
"""
