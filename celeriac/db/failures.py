"""Groups of failures: how the fold of ends makes and counts them, and what people read and change.

The statements of ends store the fingerprint of a failure with its execution, and append it to
`execution_ends` (`executions/ended.py`). The keeper's fold (`rollups.py`) counts it in its group;
no statement of an end touches the row of a group (docs/adr/0065).
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, select, text, union_all, update
from sqlalchemy import func as sql

from celeriac.db.paging import columns, given, newest, read_all, read_one, reader
from celeriac.db.schema.catalog import tasks
from celeriac.db.schema.failures import failure_groups as table
from celeriac.domain.failure_states import FailureState
from celeriac.domain.failures import FailureChange, FailureFilter, FailureGroup

_KEY = "workspace_id, task_id, fingerprint"
_VALUES = (
    "first_seen_at, last_seen_at, first_execution_id, last_execution_id, error_code, error_type,"
    " error_message"
)
_LAST = "(array_agg({column} ORDER BY execution_id DESC))[1]"

FOLD = f"""
, failing AS (
    SELECT {_KEY}, count(*) AS failures, min(ended_at) AS first_seen_at,
           max(ended_at) AS last_seen_at,
           (array_agg(execution_id ORDER BY execution_id))[1] AS first_execution_id,
           {_LAST.format(column="execution_id")} AS last_execution_id,
           {_LAST.format(column="error_code")} AS error_code,
           {_LAST.format(column="error_type")} AS error_type,
           {_LAST.format(column="error_message")} AS error_message
    FROM folding WHERE fingerprint IS NOT NULL AND execution_id IS NOT NULL
    GROUP BY {_KEY}
), repeated AS (
    -- failures of which a repeat has completed, counted with the first one that has
    SELECT o.workspace_id, o.task_id, o.error_fingerprint AS fingerprint, count(*) AS completed
    FROM folding f JOIN executions o ON o.id = f.origin_id
    WHERE f.outcome = 'completed' AND f.origin_id IS NOT NULL AND o.error_fingerprint IS NOT NULL
      AND o.id = ANY (ARRAY(SELECT origin_id FROM folding
                            WHERE outcome = 'completed' AND origin_id IS NOT NULL))
      AND NOT EXISTS (
        SELECT FROM executions x
        WHERE x.origin_id = o.id AND x.status = 'completed'
          AND (x.completed_at, x.id) < (f.ended_at, f.execution_id))
    GROUP BY 1, 2, 3
), grouped AS (
    INSERT INTO failure_groups AS g (id, {_KEY}, failures, retried_completed, {_VALUES})
    SELECT celeriac_uuid7(), changed.*
    FROM (
        SELECT {_KEY}, failures, coalesce(completed, 0), {_VALUES}
        FROM failing LEFT JOIN repeated USING ({_KEY})
        UNION ALL
        -- a group that is gone is not made anew for a repeat
        SELECT {_KEY}, 0, completed, {_VALUES}
        FROM repeated JOIN failure_groups USING ({_KEY})
        WHERE ({_KEY}) NOT IN (SELECT {_KEY} FROM failing)
        ORDER BY {_KEY}
    ) AS changed
    ON CONFLICT ({_KEY}) DO UPDATE
    SET failures = g.failures + excluded.failures,
        retried_completed = g.retried_completed + excluded.retried_completed,
        first_seen_at = least(g.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(g.last_seen_at, excluded.last_seen_at),
        first_execution_id = least(g.first_execution_id, excluded.first_execution_id),
        last_execution_id = greatest(g.last_execution_id, excluded.last_execution_id),
        (error_code, error_type, error_message) = (
            SELECT CASE WHEN newer THEN excluded.error_code ELSE g.error_code END,
                   CASE WHEN newer THEN excluded.error_type ELSE g.error_type END,
                   CASE WHEN newer THEN excluded.error_message ELSE g.error_message END
            FROM (SELECT excluded.last_execution_id > g.last_execution_id AS newer) AS which),
        (state, version) = (
            SELECT CASE WHEN again THEN 'regressed' ELSE g.state END,
                   CASE WHEN again THEN g.version + 1 ELSE g.version END
            FROM (SELECT g.state = 'resolved' AND excluded.failures > 0
                         AND excluded.last_seen_at > g.resolved_at AS again) AS which)
)"""  # noqa: S608 - put together from constants
"""The parts of the fold that count `folding`, ends that it has taken, in the groups."""

_group = reader(FailureGroup)
_SELECT = columns(FailureGroup, table, task_name=tasks.c.name).join_from(
    table, tasks, tasks.c.id == table.c.task_id, isouter=True
)


def get(
    connection: Connection, group_id: UUID, *, workspace: UUID, lock: bool = False
) -> FailureGroup | None:
    """Return a group of a workspace, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == group_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _group)


def find(
    connection: Connection, wanted: FailureFilter, *, before: UUID | None, limit: int
) -> list[FailureGroup]:
    """Return up to `limit` groups whose last execution is older than `before`, the newest first."""
    key = table.c.last_execution_id
    if not wanted.states:
        query = newest(_filtered(_SELECT, wanted), key, before=before, limit=limit)
        return read_all(connection, query, _group)
    # of each state its own page: each is read by an index
    pages = [
        newest(
            _filtered(select(table.c.id, key), wanted).where(table.c.state == state.value),
            key,
            before=before,
            limit=limit,
        ).subquery()
        for state in dict.fromkeys(wanted.states)
    ]
    ids = union_all(*(select(page.c.id) for page in pages)).scalar_subquery()
    query = _SELECT.where(table.c.id == sql.any(sql.array(ids)))
    return read_all(connection, query.order_by(key.desc()).limit(limit), _group)


def _filtered(query: Select[Any], wanted: FailureFilter) -> Select[Any]:
    query = query.where(table.c.workspace_id == wanted.workspace_id)
    return given(query, (table.c.task_id, wanted.task_id))


def change(connection: Connection, group_id: UUID, wanted: FailureChange) -> None:
    """Store another state or note. An earlier statement of the transaction has locked the group."""
    values: dict[str, object] = {"version": table.c.version + 1}
    if wanted.note is not None:
        values["note"] = wanted.note
    if wanted.state is not None:
        values["state"] = wanted.state.value
        resolved = wanted.state is FailureState.RESOLVED
        values["resolved_at"] = sql.now() if resolved else None
    connection.execute(update(table).where(table.c.id == group_id).values(**values))


_DELETE = text("""
DELETE FROM failure_groups WHERE id IN (
    SELECT id FROM failure_groups WHERE last_seen_at < now() - make_interval(secs => :seconds)
    ORDER BY last_seen_at
    LIMIT :limit)
""")


def delete_old(connection: Connection, *, days: float, limit: int) -> int:
    """Delete groups whose last failure is more than `days` ago; return how many."""
    return connection.execute(_DELETE, {"seconds": days * 86_400, "limit": limit}).rowcount
