"""Items of workflow runs are counted down by the statements that end them."""

from collections.abc import Mapping
from types import MappingProxyType

SHARDS = 32
"""An item of a step is counted in the row of `fan_ins` with its number modulo this."""

_COUNTED = """
SELECT run_id, step_no, mod(item_no, {shards}) AS shard, CAST(count(*) AS int) AS ended,
       CAST(count(*) FILTER (WHERE status = 'completed') AS int) AS completed,
       CAST(count(*) FILTER (WHERE status = 'failed') AS int) AS failed,
       CAST(count(*) FILTER (WHERE status = 'cancelled') AS int) AS cancelled
FROM ended WHERE run_id IS NOT NULL
GROUP BY 1, 2, 3
"""

_FAN_LOCKED = """
-- in one order: statements that end several items lock several rows
SELECT f.run_id FROM fan_ins f JOIN items_counted USING (run_id, step_no, shard)
WHERE f.run_id = ANY (ARRAY(SELECT run_id FROM items_counted))
ORDER BY f.run_id, f.step_no, f.shard
FOR NO KEY UPDATE OF f
"""

_FANNED = """
UPDATE fan_ins f
SET remaining = f.remaining - c.ended, completed = f.completed + c.completed,
    failed = f.failed + c.failed, cancelled = f.cancelled + c.cancelled
FROM items_counted c
WHERE f.run_id = ANY (ARRAY(SELECT run_id FROM fan_locked))
  AND f.run_id = c.run_id AND f.step_no = c.step_no AND f.shard = c.shard
RETURNING f.run_id, f.step_no, f.shard, f.remaining
"""

_TOUCHED = """
SELECT run_id, step_no, CAST(count(*) FILTER (WHERE remaining = 0) AS smallint) AS shards,
       sum(c.failed) AS failed
FROM fanned JOIN items_counted c USING (run_id, step_no, shard)
GROUP BY run_id, step_no
"""

_CONCERNED = "(touched.shards > 0 OR s.parallel IS NOT NULL OR touched.failed > 0 AND s.strict)"
"""Whether the step's row changes: it is not written for every item of a wide map."""

_STEP_LOCKED = f"""
SELECT s.run_id FROM step_runs s JOIN touched USING (run_id, step_no)
WHERE s.run_id = ANY (ARRAY(SELECT run_id FROM touched)) AND {_CONCERNED}
ORDER BY s.run_id, s.step_no
FOR NO KEY UPDATE OF s
"""

_STEPPED = f"""
UPDATE step_runs s
SET shards_left = s.shards_left - touched.shards,
    due_at = CASE WHEN s.shards_left = touched.shards OR s.parallel IS NOT NULL
                    OR touched.failed > 0 AND s.strict
                  THEN coalesce(s.due_at, now()) ELSE s.due_at END
FROM touched
WHERE s.run_id = ANY (ARRAY(SELECT run_id FROM step_locked))
  AND s.run_id = touched.run_id AND s.step_no = touched.step_no AND {_CONCERNED}
"""


_ENDS_NOTED = """
INSERT INTO item_ends (run_id, ended_xid, step_no, item_no, status, {subject})
SELECT run_id, CAST(CAST(pg_current_xact_id() AS text) AS bigint), step_no, item_no, status, id
FROM ended WHERE run_id IS NOT NULL{only}
ON CONFLICT DO NOTHING
"""


def noting_ends(subject: str = "execution_id", only: str = "") -> Mapping[str, str]:
    """Return the part that notes the ends of items for those who follow their run.

    It reads `ended` as `COUNT_DOWN` does, and its id: that of what the item is, which the column
    `subject` names, or null. `only` is a further condition.
    """
    return {"ends_noted": _ENDS_NOTED.format(subject=subject, only=only)}


def counting_down(shards: int) -> Mapping[str, str]:
    """Return the parts of `COUNT_DOWN` for steps whose items are counted in so many rows."""
    return {
        "items_counted": _COUNTED.format(shards=shards),
        "fan_locked": _FAN_LOCKED,
        "fanned": _FANNED,
        "touched": _TOUCHED,
        "step_locked": _STEP_LOCKED,
        "stepped": _STEPPED,
    }


COUNT_DOWN = MappingProxyType(counting_down(SHARDS))
"""Counts items of workflow steps down: first the row of `fan_ins` that an item has, and only who
brings that to 0 the step. The step becomes due when no item is left, exactly once.

A step also becomes due with each item if it bounds how many run at a time, and with each failure if
it is strict. The parts read `ended`, which has run_id, step_no, item_no and status. Without an item
of a workflow no part reads a table."""
