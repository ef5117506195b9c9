"""Who keeps the slots of keys until the end, and what the runs below them wait for."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.workflows.limits import NOW
from celeriac.domain.workflows.deadlocks import Key, Tree

_MOST_HOLDERS = 100
"""Runs with a slot of a key that are looked at; more of them are not found stuck."""

_MOST_BELOW = 1_000
"""Live runs below one that are looked at; with more of them it is not found stuck."""

_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def read_one_snapshot(connection: Connection) -> None:
    """Let all statements of a transaction, which has just begun, see the same rows."""
    connection.execute(_ONE_SNAPSHOT)


_HOLDERS = text("""
SELECT wanted.workspace_id, wanted.key, h.run_id
FROM unnest(CAST(:workspace_ids AS uuid[]), CAST(:keys AS text[])) AS wanted (workspace_id, key),
     LATERAL (
         SELECT run_id FROM run_limits h
         WHERE h.workspace_id = wanted.workspace_id AND h.key = wanted.key AND h.state = 'held'
           AND h.count = 'active'
         ORDER BY run_id LIMIT :most) AS h
""")


def holders(connection: Connection, keys: Collection[Key]) -> dict[Key, list[UUID]]:
    """Return the runs that keep slots of keys until they end, up to 100 of each."""
    parameters = {
        "workspace_ids": [workspace_id for workspace_id, _ in keys],
        "keys": [key for _, key in keys],
        "most": _MOST_HOLDERS,
    }
    found: dict[Key, list[UUID]] = {}
    for workspace_id, key, run_id in connection.execute(_HOLDERS, parameters):
        found.setdefault((workspace_id, key), []).append(run_id)
    return found


_TREES = text(f"""
WITH RECURSIVE tree (root, id) AS (
    SELECT id, id FROM unnest(CAST(:ids AS uuid[])) AS roots (id)
    UNION ALL
    SELECT tree.root, r.id FROM tree JOIN workflow_runs r ON r.parent_run_id = tree.id
    WHERE r.completed_at IS NULL
)
SELECT root, r.id, r.workspace_id,
       ARRAY(SELECT key FROM run_limits l
             WHERE l.run_id = r.id AND l.state = 'waiting' ORDER BY key) AS keys,
       ARRAY(SELECT {NOW.format(l="l")} FROM run_limits l
             WHERE l.run_id = r.id AND l.state = 'waiting' ORDER BY key) AS maxima,
       r.cancel_requested_at IS NOT NULL OR r.error_code IS NOT NULL OR r.overdue AS ends,
       EXISTS (SELECT FROM step_runs s WHERE s.run_id = r.id AND s.due_at IS NOT NULL) AS due,
       EXISTS (SELECT FROM step_runs s
               WHERE s.run_id = r.id AND s.status = 'running' AND s.kind <> 'workflow') AS works,
       EXISTS (SELECT FROM workflow_runs c
               WHERE c.parent_run_id = r.id AND c.completed_at IS NULL) AS waits_below
FROM (SELECT * FROM tree LIMIT :most) AS tree JOIN workflow_runs r ON r.id = tree.id
""")


def trees(connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, Tree]:
    """Return runs with the live runs below them."""
    most = _MOST_BELOW * len(run_ids)
    rows = connection.execute(_TREES, {"ids": list(run_ids), "most": most + 1}).all()
    waiting: dict[UUID, dict[UUID, dict[Key, int]]] = {each: {} for each in run_ids}
    go_on = set(run_ids) if len(rows) > most else set()
    for row in rows:
        if row.keys:
            wanted = zip(row.keys, row.maxima, strict=True)
            waiting[row.root][row.id] = {(row.workspace_id, key): most for key, most in wanted}
        if row.ends or row.works or not (row.keys or (row.waits_below and not row.due)):
            go_on.add(row.root)
    return {each: Tree(waiting[each], goes_on=each in go_on) for each in run_ids}
