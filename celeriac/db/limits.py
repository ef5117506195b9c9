"""Limits of workspaces: their rows, and the lines in which executions and runs wait for slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, and_, func, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import workspaces
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.limits import limits as table
from celeriac.domain.limit_policies import LimitOf
from celeriac.domain.workspace_limits import LimitUse, WorkspaceLimit

SETTLED_SECONDS = 120.0
"""After so long no transaction is left that has not seen a change: each statement ends before."""

WALKS = 2
"""A second walk finds what was stored by a transaction that had not seen the new limit."""

UNLIMITED = 2_147_483_647
"""The number of a deleted limit: there are always slots."""

ROW = "LEFT JOIN limits of_row ON of_row.id = {l}.limit_id AND of_row.deleted_at IS NULL"
"""The row of a limit `l`, as SQL, from which its numbers in effect are read."""

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

_OF_RUNS = (
    columns(WorkspaceLimit, table, task_name=null(), workflow_name=workflows.c.name)
    .add_columns(workflows.c.current_version_id)
    .select_from(workflows)
    .outerjoin(
        table,
        and_(table.c.workflow_id == workflows.c.id, table.c.of == text("'runs'"), _LIVE),
    )
    .order_by(table.c.name)
)


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a limit; False if its workspace has one with this name. See `change_revision`.

    The keeper gives one of executions to those that were submitted before.
    """
    walks = WALKS if values["of"] == LimitOf.EXECUTIONS else 0
    statement = (
        insert(table)
        .values(**values, look_at=func.now() if walks else None, walks=walks, walked_to=_START)
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
        table.c.of == LimitOf.EXECUTIONS,
        or_(table.c.task_id.is_(None), table.c.task_id == task_id),
    )
    return read_all(connection, query.order_by(table.c.name), _limit)


@dataclass(frozen=True, slots=True)
class CurrentWorkflow:
    """The current version of a workflow, and the limits of the workspace on its runs."""

    version_id: UUID
    limits: Sequence[WorkspaceLimit]


def current_workflow(
    connection: Connection, workflow_id: UUID, *, workspace: UUID
) -> CurrentWorkflow | None:
    """Return a workflow of the workspace as a new run needs it, in one statement, or None."""
    query = _OF_RUNS.where(workflows.c.id == workflow_id, workflows.c.workspace_id == workspace)
    rows = connection.execute(query.where(workflows.c.deleted_at.is_(None))).all()
    if not rows:
        return None
    return CurrentWorkflow(rows[0].current_version_id, [_limit(row) for row in rows if row.id])


def of_runs(connection: Connection, workflow_id: UUID) -> list[WorkspaceLimit]:
    """Return the limits on the runs of a workflow, by their names, also of a deleted workflow."""
    rows = connection.execute(_OF_RUNS.where(workflows.c.id == workflow_id))
    return [_limit(row) for row in rows if row.id]


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
           (SELECT FROM execution_limits u WHERE u.limit_id = wanted.id AND u.state = 'held'
            LIMIT :most)
           UNION ALL
           (SELECT FROM run_limits u WHERE u.limit_id = wanted.id AND u.state = 'held'
            LIMIT :most)) AS held),
       (SELECT count(*) FROM (
           (SELECT FROM execution_limits u
            WHERE u.limit_id = wanted.id AND u.state IN ('waiting', 'elsewhere')
            LIMIT :most)
           UNION ALL
           (SELECT FROM run_limits u WHERE u.limit_id = wanted.id AND u.state = 'waiting'
            LIMIT :most)) AS waiting),
       (SELECT count(*) FROM (
           (SELECT FROM execution_limits u WHERE u.limit_id = wanted.id LIMIT :most)
           UNION ALL
           (SELECT FROM run_limits u WHERE u.limit_id = wanted.id LIMIT :most)) AS named)
FROM unnest(CAST(:ids AS uuid[])) AS wanted (id)
""")


def use(connection: Connection, ids: Sequence[UUID], *, most: int) -> dict[UUID, LimitUse]:
    """Return how much limits are used by executions or runs, counted up to `most`."""
    rows = connection.execute(_USE, {"ids": list(ids), "most": most})
    return {row[0]: LimitUse(row[1], row[2], row[3]) for row in rows}


_LINES = """
WITH RECURSIVE line (key, no) AS (
    (SELECT key, 1 FROM {table}
     WHERE limit_id = :id AND state = 'waiting' ORDER BY key LIMIT 1)
    UNION ALL
    SELECT next.key, line.no + 1
    FROM line, LATERAL (
        SELECT key FROM {table} l
        WHERE l.limit_id = :id AND l.state = 'waiting' AND l.key > line.key
        ORDER BY l.key LIMIT 1) AS next
    WHERE line.no < :limit
)
SELECT key FROM line
"""
_LINES_OF = {
    LimitOf.EXECUTIONS: text(_LINES.format(table="execution_limits")),
    LimitOf.RUNS: text(_LINES.format(table="run_limits")),
}


def lines(connection: Connection, limit_id: UUID, of: LimitOf, *, limit: int) -> list[str]:
    """Return up to `limit` keys of a limit for which executions or runs wait."""
    return list(connection.execute(_LINES_OF[of], {"id": limit_id, "limit": limit}).scalars())
