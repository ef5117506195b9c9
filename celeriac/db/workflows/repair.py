"""Checks counters of live runs against their items, and corrects those that are wrong.

A statement that ends an item changes it and its counter, so one snapshot must show both alike.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.run_items import SHARDS
from celeriac.domain.workflows.undo import SUFFIX

_LIVE_RUNS = text("""
SELECT id FROM workflow_runs
WHERE completed_at IS NULL AND status <> 'pending' AND id > :after
  AND created_at < now() - make_interval(secs => :older_than)
ORDER BY id LIMIT :limit
""")


def live_runs(
    connection: Connection, *, after: UUID, older_than: float, limit: int
) -> Sequence[UUID]:
    """Return runs that began over `older_than` seconds ago and have not ended, in order of ids."""
    parameters = {"after": after, "older_than": older_than, "limit": limit}
    return connection.execute(_LIVE_RUNS, parameters).scalars().all()


_LIVE_ITEMS = f"""
    SELECT step_no, mod(item_no, {SHARDS}) AS shard, CAST(count(*) AS int) AS live FROM (
        SELECT step_no, item_no FROM executions
        WHERE run_id = :run_id AND completed_at IS NULL
        UNION ALL
        SELECT parent_step_no, parent_item_no FROM workflow_runs
        WHERE parent_run_id = :run_id AND completed_at IS NULL) AS items
    GROUP BY 1, 2
"""
_UNDO_ITEMS = f"""
    SELECT i.step_no, mod(i.item_no, {SHARDS}) AS shard, CAST(count(*) AS int) AS width,
           CAST(count(*) FILTER (WHERE i.status = 'ready') AS int) AS unmade
    FROM step_runs s JOIN step_items i ON i.run_id = s.run_id AND i.step_no = s.step_no
    WHERE s.run_id = :run_id AND s.status = 'running' AND strpos(s.step, '{SUFFIX}') > 0
    GROUP BY 1, 2
"""
"""Items of undo steps exist before they are made, with the numbers of what they undo."""

_WIDTH = f"coalesce(u.width, (s.width - f.shard + {SHARDS - 1}) / {SHARDS})"
_UNMADE = f"coalesce(u.unmade, {_WIDTH} - (s.spawned - f.shard + {SHARDS - 1}) / {SHARDS})"
_REMAINING = f"coalesce(l.live, 0) + {_UNMADE}"

_WRONG_ROWS = f"""
SELECT s.run_id, s.step_no, f.shard, CASE WHEN u.step_no IS NULL THEN s.round END AS round,
       {_WIDTH} AS width, {_UNMADE} AS unmade, {_REMAINING} AS remaining
FROM step_runs s
JOIN fan_ins f ON f.run_id = s.run_id AND f.step_no = s.step_no
LEFT JOIN live l ON l.step_no = f.step_no AND l.shard = f.shard
LEFT JOIN undo u ON u.step_no = f.step_no AND u.shard = f.shard
WHERE s.run_id = :run_id AND s.status = 'running' AND s.kind IN ('task', 'workflow')
  AND (f.remaining <> {_REMAINING}
       OR f.remaining + f.completed + f.failed + f.cancelled <> {_WIDTH})
"""

_CHECK = with_guards(
    """
WITH live AS ({live}), undo AS ({undo}), wrong AS ({wrong})
SELECT (SELECT count(*) FROM wrong) AS wrong,
       NOT EXISTS (
           SELECT FROM step_runs
           WHERE run_id = :run_id
             AND (due_at IS NOT NULL OR status = 'running'
                  AND (shards_left > 0 OR kind NOT IN ('task', 'workflow')))) AS stuck
""",
    {"live": _LIVE_ITEMS, "undo": _UNDO_ITEMS, "wrong": _WRONG_ROWS},
)


def check(connection: Connection, run_id: UUID) -> tuple[int, bool]:
    """Return how many counters of a run are wrong, and whether nothing would advance it."""
    row = connection.execute(_CHECK, {"run_id": run_id}).one()
    return row.wrong, row.stuck


_LOCK = (
    text("SELECT FROM fan_ins WHERE run_id = :run_id ORDER BY step_no, shard FOR UPDATE"),
    text("SELECT FROM step_runs WHERE run_id = :run_id ORDER BY step_no FOR UPDATE"),
)
# an item that shares the execution of another one counted as completed when it was made
_CORRECT = with_guards(
    """
WITH live AS ({live}), undo AS ({undo}), wrong AS ({wrong}), ended AS (
    SELECT w.step_no, w.shard,
           CAST(count(*) FILTER (WHERE i.own = 'failed') AS int) AS failed,
           CAST(count(*) FILTER (WHERE i.own = 'cancelled') AS int) AS cancelled,
           CAST(count(i.item_no) FILTER (WHERE i.own IS DISTINCT FROM 'ready') AS int) AS made
    FROM wrong w LEFT JOIN LATERAL (
        SELECT i.item_no, coalesce(i.status, r.status,
               CASE WHEN e.run_id = i.run_id AND e.item_no = i.item_no THEN e.status END) AS own
        FROM step_items i
        LEFT JOIN LATERAL (
            SELECT run_id, item_no, status FROM executions WHERE id = i.execution_id
            OFFSET 0) e ON true
        LEFT JOIN LATERAL (
            SELECT status FROM workflow_runs WHERE id = i.child_run_id OFFSET 0) r ON true
        WHERE i.run_id = w.run_id AND i.step_no = w.step_no AND i.round = coalesce(w.round, i.round)
          AND mod(i.item_no, {shards}) = w.shard) AS i ON true
    GROUP BY w.step_no, w.shard
), counted AS (
    SELECT w.step_no, w.shard, w.width, w.remaining, e.failed,
           -- what was never made because the step was stopped
           e.cancelled + greatest(0, w.width - w.unmade - e.made) AS cancelled
    FROM wrong w JOIN ended e USING (step_no, shard)
), corrected AS (
    UPDATE fan_ins f
    SET remaining = c.remaining, failed = c.failed, cancelled = c.cancelled,
        completed = greatest(0, c.width - c.remaining - c.failed - c.cancelled)
    FROM counted c
    WHERE f.run_id = :run_id AND f.step_no = c.step_no AND f.shard = c.shard
    RETURNING f.step_no, f.shard, f.remaining
)
UPDATE step_runs s
SET due_at = coalesce(s.due_at, now()), shards_left = (
    SELECT count(*) FROM fan_ins f LEFT JOIN corrected c USING (step_no, shard)
    WHERE f.run_id = s.run_id AND f.step_no = s.step_no
      AND coalesce(c.remaining, f.remaining) > 0)
WHERE s.run_id = :run_id AND s.step_no IN (SELECT step_no FROM corrected)
RETURNING s.step
""",
    {
        "live": _LIVE_ITEMS,
        "undo": _UNDO_ITEMS,
        "wrong": _WRONG_ROWS,
        "shards": str(SHARDS),
    },
)


def correct(connection: Connection, run_id: UUID) -> Sequence[str]:
    """Correct the counters of a locked run; return the steps whose counters were wrong.

    They are due then.
    """
    for statement in _LOCK:
        connection.execute(statement, {"run_id": run_id})
    return sorted(connection.execute(_CORRECT, {"run_id": run_id}).scalars())
