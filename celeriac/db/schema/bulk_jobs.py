"""Tables of bulk jobs and of what became of their executions (docs/adr/0068)."""

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)

from celeriac.db.schema.base import enum_check, metadata, stored, table_of_ids, timestamp, where
from celeriac.domain.bulk_actions import BulkOutcome, BulkStatus

bulk_jobs = table_of_ids(
    "bulk_jobs",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    timestamp("created_at", now=True),
    timestamp("started_at"),
    timestamp("worked_at"),
    timestamp("completed_at"),
    Column("total", Integer, nullable=False),
    # how many of `scope` have an outcome
    Column("position", Integer, nullable=False, server_default="0"),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("skipped", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("more", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("stopped_by", Text),
    Column("request_id", Text),
    Column("error", Text),
    Column("arguments", JSON, nullable=False),
    Column("filter", JSON, nullable=False),
    Column("reasons", JSON, nullable=False, server_default="{}"),
    # the executions, the newest first; never changed, so that an update of the row copies nothing
    Column("scope", ARRAY(Uuid), nullable=False),
    enum_check("status", BulkStatus),
    Index(None, "workspace_id", "id"),
    Index("ix_bulk_jobs_active", "workspace_id", "id", **where("status IN ('pending', 'running')")),
    Index("ix_bulk_jobs_previews", "workspace_id", "owner_id", "id", **where("status = 'preview'")),
    # a running job is updated with each batch
    postgresql_with=stored(dead=1_000, fill=50),
)
"""Jobs of one action for many executions, and the previews of such jobs."""

bulk_job_items = Table(
    "bulk_job_items",
    metadata,
    Column("job_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("new_execution_id", Uuid),
    Column("outcome", Text, nullable=False),
    Column("code", Text),
    Column("message", Text),
    PrimaryKeyConstraint("job_id", "execution_id"),
    enum_check("outcome", BulkOutcome),
    Index(
        "ix_bulk_job_items_others",
        "job_id",
        "outcome",
        "execution_id",
        **where("outcome <> 'done'"),
    ),
)
"""What became of each execution of a job, inserted with the change itself."""
