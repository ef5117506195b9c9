"""The table of pauses."""

from sqlalchemy import CheckConstraint, Column, Index, Text, Uuid

from celeriac.db.schema.base import enum_check, table_of_ids, timestamp, where
from celeriac.domain.executions.pauses import PauseScope

pauses = table_of_ids(
    "pauses",
    Column("scope", Text, nullable=False),
    Column("queue", Text),
    Column("task_id", Uuid),
    # the name of a Celery node
    Column("worker", Text),
    Column("workflow_id", Uuid),
    Column("limit_id", Uuid),
    # of a limit, as executions have it
    Column("key", Text),
    # of a task, a workspace, a limit or a key
    Column("workspace_id", Uuid),
    Column("reason", Text, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("created_by", Text, nullable=False),
    timestamp("created_at", now=True),
    enum_check("scope", PauseScope),
    CheckConstraint(
        "(queue IS NOT NULL) = (scope = 'queue') AND (task_id IS NOT NULL) = (scope = 'task')"
        " AND (worker IS NOT NULL) = (scope = 'worker')"
        " AND (workflow_id IS NOT NULL) = (scope = 'workflow')"
        " AND (limit_id IS NOT NULL) = (scope = 'limit') AND (key IS NOT NULL) = (scope = 'key')"
        " AND (workspace_id IS NOT NULL)"
        " = (scope IN ('task', 'workflow', 'workspace', 'limit', 'key'))",
        name="one_target",
    ),
    Index("uq_pauses_system", "scope", unique=True, **where("scope = 'system'")),
    Index("uq_pauses_queue", "queue", unique=True, **where("scope = 'queue'")),
    Index("uq_pauses_task", "task_id", unique=True, **where("scope = 'task'")),
    Index("uq_pauses_workspace", "workspace_id", unique=True, **where("scope = 'workspace'")),
    Index("uq_pauses_workflow", "workflow_id", unique=True, **where("scope = 'workflow'")),
    Index("uq_pauses_limit", "limit_id", unique=True, **where("scope = 'limit'")),
    Index("uq_pauses_key", "workspace_id", "key", unique=True, **where("scope = 'key'")),
    Index("uq_pauses_worker", "worker", unique=True, **where("scope = 'worker'")),
)
"""What may not begin for now. A row is deleted when it is resumed; the audit trail has its past.

Every claim looks at this table: it must stay small.
"""
