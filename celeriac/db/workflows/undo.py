"""Undo steps of runs: which items they undo, and what the undo tasks are given.

An item of an undo step has the number and the round of the item that it undoes. All of them are
inserted when the compensation begins, as `ready`: what must be undone is stored before anything is.
Executions and runs of items are looked for one by one, by their keys (`OFFSET 0`), whatever the
planner thinks of their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, bindparam, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.run_items import SHARDS
from celeriac.db.workflows.items import NewItem, item_parameters
from celeriac.domain.workflows.undo import SUFFIX
from celeriac.kit.json_types import JsonObject, JsonValue

_MOST_BYTES = 16_000_000
"""Of the inputs and results that are read at once, as JSON."""


@dataclass(frozen=True, slots=True)
class Undoable:
    """A step with an undo task."""

    step_no: int
    started: bool
    """Whether items that began and didn't complete are undone, too."""
    parallel: int | None


_FIND = text("""
WITH wanted AS (
    SELECT * FROM unnest(CAST(:nos AS smallint[]), CAST(:started AS boolean[]))
                  AS w (step_no, started)
)
INSERT INTO step_items (run_id, step_no, item_no, round, status)
SELECT :run_id, :steps + i.step_no, i.item_no, i.round, 'ready'
FROM wanted w JOIN step_items i ON i.run_id = :run_id AND i.step_no = w.step_no
LEFT JOIN LATERAL (
    SELECT id, run_id, item_no, status, started_at FROM executions WHERE id = i.execution_id
    OFFSET 0) e ON true
LEFT JOIN LATERAL (
    SELECT id, parent_run_id, status FROM workflow_runs WHERE id = i.child_run_id
    OFFSET 0) r ON true
-- not what an earlier run has done, and once what several items with one key share
WHERE (e.run_id = i.run_id AND e.item_no = i.item_no OR r.parent_run_id = i.run_id)
  AND (coalesce(e.status, r.status) = 'completed'
       OR w.started AND (e.started_at IS NOT NULL OR r.id IS NOT NULL))
  -- deleted meanwhile: nobody knows whether it completed
  OR NOT i.taken_over AND i.status IS NULL AND e.id IS NULL AND r.id IS NULL
""")

_COUNT = text("""
WITH shards AS (
    INSERT INTO fan_ins (run_id, step_no, shard, remaining, completed)
    SELECT run_id, step_no, mod(item_no, :shards), count(*) FILTER (WHERE status = 'ready'),
           count(*) FILTER (WHERE status IS NULL)
    FROM step_items WHERE run_id = :run_id AND step_no > :steps
    GROUP BY run_id, step_no, mod(item_no, :shards)
    RETURNING step_no, remaining, completed
), counted AS (
    SELECT step_no, sum(remaining + completed) AS width, sum(completed) AS made,
           count(*) FILTER (WHERE remaining > 0) AS shards_left
    FROM shards GROUP BY step_no
), bounds AS (
    SELECT * FROM unnest(CAST(:nos AS smallint[]), CAST(:parallels AS int[]))
                  AS b (step_no, parallel)
)
INSERT INTO step_runs (run_id, step_no, step, kind, status, width, spawned, shards_left, round,
                       parallel, started_at, completed_at)
SELECT :run_id, c.step_no, s.step || :suffix, 'task',
       CASE WHEN c.shards_left = 0 THEN 'completed' ELSE 'blocked' END, c.width, c.made,
       c.shards_left, s.round, CASE WHEN b.parallel < c.width THEN b.parallel END,
       CASE WHEN c.shards_left = 0 THEN o.started_at END,
       CASE WHEN c.shards_left = 0 THEN o.completed_at END
FROM counted c
JOIN step_runs s ON s.run_id = :run_id AND s.step_no = c.step_no - :steps
LEFT JOIN bounds b ON b.step_no = s.step_no
LEFT JOIN step_runs o ON o.run_id = CAST(:origin_id AS uuid) AND o.step_no = c.step_no
""").bindparams(bindparam("shards", SHARDS), bindparam("suffix", SUFFIX))


def plan(connection: Connection, run_id: UUID, steps: int, undoable: Sequence[Undoable]) -> int:
    """Insert the undo steps of a locked run of `steps` steps; return how many.

    Items that completed are undone, and with `started` those of which an attempt began. None of
    the run's items may run any more.
    """
    parameters = {
        "run_id": run_id,
        "steps": steps,
        "nos": [each.step_no for each in undoable],
        "started": [each.started for each in undoable],
    }
    if not connection.execute(_FIND, parameters).rowcount:
        return 0
    return _count(connection, run_id, steps, undoable, origin_id=None)


def _count(
    connection: Connection,
    run_id: UUID,
    steps: int,
    undoable: Sequence[Undoable],
    *,
    origin_id: UUID | None,
) -> int:
    parameters = {
        "run_id": run_id,
        "steps": steps,
        "nos": [each.step_no for each in undoable],
        "parallels": [each.parallel for each in undoable],
        "origin_id": origin_id,
    }
    return connection.execute(_COUNT, parameters).rowcount


_TAKE_OVER = text("""
INSERT INTO step_items (run_id, step_no, item_no, round, execution_id, status)
SELECT :run_id, u.step_no, u.item_no, u.round, e.id, CASE WHEN e.id IS NULL THEN 'ready' END
FROM step_items u
LEFT JOIN LATERAL (
    SELECT id FROM executions WHERE id = u.execution_id AND status = 'completed'
    OFFSET 0) e ON true
WHERE u.run_id = :origin_id AND u.step_no > :steps
""")


def take_over(
    connection: Connection,
    run_id: UUID,
    origin_id: UUID,
    steps: int,
    undoable: Sequence[Undoable],
) -> None:
    """Insert the undo steps of a run that retries those of another: completed items stay so."""
    parameters = {"run_id": run_id, "origin_id": origin_id, "steps": steps}
    connection.execute(_TAKE_OVER, parameters)
    _count(connection, run_id, steps, undoable, origin_id=origin_id)


_RETRIED = text("""
UPDATE workflow_runs SET compensation_run_id = :by
WHERE id = :id AND compensation_run_id IS NULL
RETURNING id
""")


def set_retried(connection: Connection, run_id: UUID, *, by: UUID) -> bool:
    """Note which run retries the compensation of an ended one; False if another does already."""
    return connection.execute(_RETRIED, {"id": run_id, "by": by}).first() is not None


_NOT_UNDONE_BELOW = text("""
WITH RECURSIVE below AS (
    SELECT id, status, compensation, compensation_run_id FROM workflow_runs WHERE id = :run_id
    UNION ALL
    SELECT r.id, r.status, r.compensation, r.compensation_run_id
    FROM below b
    CROSS JOIN LATERAL (
        SELECT b.compensation_run_id AS id WHERE b.id <> :run_id
        UNION ALL
        SELECT i.child_run_id FROM step_runs s
        JOIN step_items i ON i.run_id = s.run_id AND i.step_no = s.step_no
        WHERE s.run_id = b.id AND s.kind = 'workflow' AND s.status IN ('failed', 'cancelled')
          AND (b.id <> :run_id OR s.step_no <> ALL (CAST(:except_nos AS smallint[])))
          AND NOT EXISTS (
              SELECT FROM step_runs u
              WHERE u.run_id = s.run_id AND u.step = s.step || :suffix
                AND u.status = 'completed')
    ) n
    CROSS JOIN LATERAL (
        SELECT id, status, compensation, compensation_run_id FROM workflow_runs
        WHERE id = n.id AND status <> 'completed' OFFSET 0) r
)
SELECT id FROM below
WHERE id <> :run_id AND (
    status = 'compensating' OR compensation = 'compensation_failed' AND compensation_run_id IS NULL)
LIMIT 1
""")


def not_undone_below(
    connection: Connection, run_id: UUID, *, except_nos: Sequence[int]
) -> UUID | None:
    """Return a run below an ended one of which undo tasks have failed or still run, or None.

    Looks below all steps without success, except `except_nos` and those that were undone. A run of
    which the compensation was retried with success counts as undone.
    """
    parameters = {"run_id": run_id, "except_nos": list(except_nos), "suffix": SUFFIX}
    return connection.execute(_NOT_UNDONE_BELOW, parameters).scalar()


_SET_DUE = text("""
UPDATE step_runs SET due_at = now()
WHERE run_id = :run_id AND step_no = ANY(CAST(:nos AS smallint[]))
""")


def set_due(connection: Connection, run_id: UUID, nos: Sequence[int]) -> None:
    """Note that these steps, which begin now, have items to be made."""
    if nos:
        connection.execute(_SET_DUE, {"run_id": run_id, "nos": list(nos)})


@dataclass(frozen=True, slots=True)
class Undone:
    """An item to undo, with what it was given and what became of it."""

    item_no: int
    round: int
    status: str | None
    """None: it is deleted."""
    input: JsonObject
    result: JsonValue
    error_code: str | None
    error_message: str | None


# the size as it is stored comes first: it is known without reading the values
_NEXT = with_guards(
    """
WITH page AS MATERIALIZED (
    SELECT item_no, round FROM step_items
    WHERE run_id = :run_id AND step_no = :step_no AND status = 'ready'
    ORDER BY round DESC, item_no
    LIMIT :limit
), found AS (
    SELECT p.item_no, p.round, coalesce(e.status, r.status) AS status,
           coalesce(v.variables, r.input, '{{}}') AS input,
           coalesce(x.result, r.result) AS result,
           coalesce(e.error_code, r.error_code) AS error_code,
           coalesce(e.error_message, r.error_message) AS error_message,
           sum(coalesce(pg_column_size(coalesce(v.variables, r.input)), 0)
               + coalesce(pg_column_size(coalesce(x.result, r.result)), 0))
               OVER {before} AS stored_before
    FROM page p
    CROSS JOIN LATERAL (
        SELECT execution_id, child_run_id FROM step_items
        WHERE run_id = :run_id AND step_no = :of_step AND item_no = p.item_no AND round = p.round
        OFFSET 0) i
    LEFT JOIN LATERAL (
        SELECT status, error_code, error_message FROM executions WHERE id = i.execution_id
        OFFSET 0) e ON true
    LEFT JOIN LATERAL (
        SELECT variables FROM execution_inputs WHERE execution_id = i.execution_id
        OFFSET 0) v ON true
    LEFT JOIN LATERAL (
        SELECT result FROM execution_results WHERE execution_id = i.execution_id
        OFFSET 0) x ON true
    LEFT JOIN LATERAL (
        SELECT status, input, result, error_code, error_message FROM workflow_runs
        WHERE id = i.child_run_id
        OFFSET 0) r ON true
), few AS (
    SELECT *, sum(octet_length(CAST(input AS text))
                  + coalesce(octet_length(CAST(result AS text)), 0)) OVER {before} AS bytes_before
    FROM found p WHERE coalesce(stored_before, 0) < :bytes
)
SELECT item_no, round, status, input, result, error_code, error_message FROM few
WHERE coalesce(bytes_before, 0) < :bytes
ORDER BY round DESC, item_no
""",
    {
        "before": "(ORDER BY p.round DESC, p.item_no"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    },
).bindparams(bindparam("bytes", _MOST_BYTES))


def next_items(
    connection: Connection, run_id: UUID, step_no: int, of_step: int, *, limit: int
) -> list[Undone]:
    """Return up to `limit` items of an undo step that were not made, the last rounds first.

    `of_step` is the number of the step that is undone.
    """
    parameters = {"run_id": run_id, "step_no": step_no, "of_step": of_step, "limit": limit}
    return [Undone(*row) for row in connection.execute(_NEXT, parameters)]


_MAKE = text("""
UPDATE step_items u
SET execution_id = m.execution_id, status = m.status, error_code = m.code,
    error_message = m.message
FROM unnest(CAST(:item_nos AS int[]), CAST(:execution_ids AS uuid[]), CAST(:statuses AS text[]),
            CAST(:codes AS text[]), CAST(:messages AS text[]))
     AS m (item_no, execution_id, status, code, message)
WHERE u.run_id = :run_id AND u.step_no = :step_no AND u.round = :round AND u.item_no = m.item_no
  AND u.status = 'ready'
""")


def make(
    connection: Connection, run_id: UUID, step_no: int, round_no: int, items: Sequence[NewItem]
) -> None:
    """Store the executions of items of an undo step, or why they have none."""
    connection.execute(_MAKE, item_parameters(run_id, step_no, round_no, items))


@dataclass(frozen=True, slots=True)
class NotUndone:
    """An item whose undo task has ended without success."""

    item_no: int
    round: int
    status: str
    error_code: str | None
    error_message: str | None


_NOT_UNDONE = text("""
SELECT u.item_no, u.round, coalesce(u.status, e.status, 'deleted'),
       coalesce(u.error_code, e.error_code), coalesce(u.error_message, e.error_message)
FROM step_items u
LEFT JOIN LATERAL (
    SELECT status, error_code, error_message FROM executions WHERE id = u.execution_id
    OFFSET 0) e ON true
WHERE u.run_id = :run_id AND u.step_no = :step_no
  AND coalesce(u.status, e.status, 'deleted') <> 'completed'
ORDER BY u.item_no, u.round
LIMIT 1
""")


def first_not_undone(connection: Connection, run_id: UUID, step_no: int) -> NotUndone | None:
    """Return the first item of an ended undo step that was not undone, or None."""
    row = connection.execute(_NOT_UNDONE, {"run_id": run_id, "step_no": step_no}).first()
    return None if row is None else NotUndone(*row)
