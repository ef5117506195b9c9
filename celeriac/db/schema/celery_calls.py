"""The table of Celery tasks that end with executions (docs/celery.md)."""

from sqlalchemy import JSON, Column, Index, Integer, Table, Text, Uuid

from celeriac.db.schema.base import enum_check, metadata, timestamp, where
from celeriac.domain.executions.calls import CallKind

celery_calls = Table(
    "celery_calls",
    metadata,
    # Celery's id, which may be any text
    Column("id", Text, primary_key=True),
    Column("task_name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    # the execution, batch or workflow run
    Column("subject_id", Uuid, nullable=False, unique=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    # executions, or 1 for a workflow run, that have not ended
    Column("pending", Integer, nullable=False),
    # what Celery needs to end it; NULL once it has ended
    # with the arguments of callbacks, whose properties keep their order
    Column("message", JSON),
    timestamp("created_at", now=True),
    # when its end is tried next; NULL while executions run, and after the end
    timestamp("due_at"),
    Column("tries", Integer, nullable=False, server_default="0"),
    timestamp("ended_at"),
    enum_check("kind", CallKind),
    Index("ix_celery_calls_due", "due_at", **where("due_at IS NOT NULL")),
    Index("ix_celery_calls_open", "id", **where("ended_at IS NULL")),
    Index("ix_celery_calls_ended", "ended_at", **where("ended_at IS NOT NULL")),
)
