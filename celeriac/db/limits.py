"""Limits of workspaces: their rows, and the lines in which executions wait for their slots."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import workspaces
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.limits import limits as table
from celeriac.domain.workspace_limits import LimitUse, WorkspaceLimit

SETTLED_SECONDS = 120.0
"""After so long no transaction is left that has not seen a change: each statement ends before."""

WALKS = 2
"""A second walk finds what was stored by a transaction that had not seen the new limit."""

_START = UUID(int=0)
_LIVE = table.c.deleted_at.is_(None)
_SELECT = (
    columns(WorkspaceLimit, table, task_name=tasks.c.name, workflow_name=workflows.c.name)
    .select_from(table)
    .outerjoin(workflows, workflows.c.id == table.c.workflow_id)
    .outerjoin(tasks, tasks.c.id == table.c.task_id)
    .where(_LIVE)
)
_limit = reader(WorkspaceLimit)


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a limit; False if its workspace has one with this name. See `change_revision`."""
    statement = (
        insert(table)
        .values(**values, look_at=func.now(), walks=WALKS, walked_to=_START)
        .on_conflict_do_nothing()
        .returning(table.c.id)
    )
    return connection.execute(statement).first() is not None


def get(
    connection: Connection, limit_id: UUID, *, workspace: UUID, lock: bool = False
) -> WorkspaceLimit | None:
    """Return a limit of `workspace`, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == limit_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _limit)


def id_of_name(connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
    """Return the id of the limit that is named so in `workspace`, or None."""
    query = select(table.c.id).where(table.c.workspace_id == workspace, table.c.name == name)
    return connection.execute(query.where(_LIVE)).scalar_one_or_none()


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[WorkspaceLimit]:
    """Return up to `limit` limits of a workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _limit)


def of_task(connection: Connection, workspace_id: UUID, task_id: UUID) -> list[WorkspaceLimit]:
    """Return the limits that may be about the executions of a task, by their names.

    Those of workflows are among them: its executions may be their steps.
    """
    query = _SELECT.where(
        table.c.workspace_id == workspace_id,
        or_(table.c.task_id.is_(None), table.c.task_id == task_id),
    )
    return read_all(connection, query.order_by(table.c.name), _limit)


def count(
    connection: Connection, workspace_id: UUID, *, task_id: UUID | None, workflow_id: UUID | None
) -> tuple[int, int]:
    """Return how many limits a workspace has, and how many about the task or workflow, or all."""
    same = and_(
        table.c.task_id.is_not_distinct_from(task_id),
        table.c.workflow_id.is_not_distinct_from(workflow_id),
    )
    query = select(func.count(), func.count().filter(same)).where(
        table.c.workspace_id == workspace_id, _LIVE
    )
    row = connection.execute(query).one()
    return row[0], row[1]


def change(connection: Connection, limit_id: UUID, values: dict[str, object]) -> None:
    """Change a limit, which the caller has locked. See `change_revision`."""
    changed = update(table).where(table.c.id == limit_id)
    connection.execute(changed.values(**values, updated_at=func.now()))


def delete(connection: Connection, limit_id: UUID) -> None:
    """Let a limit, which the caller has locked, limit nothing more. See `change_revision`."""
    later = func.now() + timedelta(seconds=SETTLED_SECONDS)
    connection.execute(
        update(table).where(table.c.id == limit_id).values(deleted_at=func.now(), look_at=later)
    )


def delete_of(connection: Connection, subject_id: UUID) -> list[UUID]:
    """Delete the limits of a task or workflow that is deleted, and return them.

    Nobody can start it again.
    """
    subject = or_(table.c.task_id == subject_id, table.c.workflow_id == subject_id)
    later = func.now() + timedelta(seconds=SETTLED_SECONDS)
    statement = (
        update(table)
        .where(subject, _LIVE)
        .values(deleted_at=func.now(), look_at=later)
        .returning(table.c.id)
    )
    return list(connection.execute(statement).scalars())


def change_revision(connection: Connection, workspace_id: UUID) -> None:
    """Let each submission that has not seen the workspace's limits as they are now read them."""
    connection.execute(
        update(workspaces)
        .where(workspaces.c.id == workspace_id)
        .values(limits_revision=workspaces.c.limits_revision + 1)
    )


_USE = text("""
SELECT wanted.id,
       (SELECT count(*) FROM (
           SELECT FROM execution_limits u WHERE u.limit_id = wanted.id AND u.state = 'held'
           LIMIT :most) AS held),
       (SELECT count(*) FROM (
           SELECT FROM execution_limits u
           WHERE u.limit_id = wanted.id AND u.state IN ('waiting', 'elsewhere')
           LIMIT :most) AS waiting)
FROM unnest(CAST(:ids AS uuid[])) AS wanted (id)
""")


def use(connection: Connection, ids: Sequence[UUID], *, most: int) -> dict[UUID, LimitUse]:
    """Return how much limits are used, counted up to `most`."""
    rows = connection.execute(_USE, {"ids": list(ids), "most": most})
    return {row[0]: LimitUse(row[1], row[2]) for row in rows}


_LINES = text("""
WITH RECURSIVE line (key, no) AS (
    (SELECT key, 1 FROM execution_limits
     WHERE limit_id = :id AND state = 'waiting' ORDER BY key LIMIT 1)
    UNION ALL
    SELECT next.key, line.no + 1
    FROM line, LATERAL (
        SELECT key FROM execution_limits l
        WHERE l.limit_id = :id AND l.state = 'waiting' AND l.key > line.key
        ORDER BY l.key LIMIT 1) AS next
    WHERE line.no < :limit
)
SELECT key FROM line
""")


def lines(connection: Connection, limit_id: UUID, *, limit: int) -> list[str]:
    """Return up to `limit` keys of a limit for which executions wait."""
    return list(connection.execute(_LINES, {"id": limit_id, "limit": limit}).scalars())
