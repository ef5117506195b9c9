"""The table of groups of failures (docs/adr/0065)."""

from sqlalchemy import Column, Index, Integer, Text, UniqueConstraint, Uuid

from celeriac.db.schema.base import count, enum_check, stored, table_of_ids, timestamp, where
from celeriac.domain.failure_states import FailureState

failure_groups = table_of_ids(
    "failure_groups",
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    # those with the smallest and the largest id; they may be deleted
    Column("first_execution_id", Uuid, nullable=False),
    Column("last_execution_id", Uuid, nullable=False),
    timestamp("first_seen_at", now=True),
    timestamp("last_seen_at", now=True),
    timestamp("resolved_at"),
    count("failures"),
    # of those, how many were repeated and the repeat completed
    count("retried_completed"),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("state", Text, nullable=False, server_default=FailureState.NEW.value),
    # `executions.error_fingerprint`
    Column("fingerprint", Text, nullable=False),
    # of the last execution
    Column("error_code", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("note", Text, nullable=False, server_default=""),
    enum_check("state", FailureState),
    UniqueConstraint("workspace_id", "task_id", "fingerprint"),
    Index("ix_failure_groups_latest", "workspace_id", "last_execution_id"),
    Index("ix_failure_groups_state", "workspace_id", "state", "last_execution_id"),
    Index("ix_failure_groups_regressed", "workspace_id", **where("state = 'regressed'")),
    Index("ix_failure_groups_task", "task_id", "last_execution_id"),
    Index("ix_failure_groups_age", "last_seen_at"),
    # Those that recur are updated every few seconds.
    postgresql_with=stored(dead=1_000),
)
"""Failed executions of a task with the same fingerprint; the keeper makes and counts them."""
