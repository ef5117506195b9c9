"""Children: executions that an execution has started, and what their ends do to it.

`live_children` counts the children of an execution that have not ended. The statement that ends the
last one resumes the parent (`ended`). Statements lock the counters before the parent's row, and
children before their parents, so that no two wait for each other. See docs/adr/0041.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.domain.executions.model import Lease
from celeriac.domain.executions.states import TRANSITIONS, Status, Transition
from celeriac.domain.executions.steps import Child
from celeriac.kit.json_types import JsonValue

SHARDS = 16
"""So many statements may count down for one parent at the same time; a power of 2."""


def shard_of(execution_id: str) -> str:
    """Return the shard in which a child is counted, as SQL: 1 to `SHARDS`."""
    return f"CAST(get_byte(uuid_send({execution_id}), 15) & {SHARDS - 1} AS smallint) + 1"


_SOURCES, _TARGET = TRANSITIONS[Transition.RESUME]
_WAITS = "p.status IN ({})".format(", ".join(f"'{status}'" for status in sorted(_SOURCES)))

WAKE = f"""
UPDATE executions p
SET status = CASE WHEN {_WAITS} THEN '{_TARGET}' ELSE p.status END,
    available_at = CASE WHEN {_WAITS} THEN now() ELSE p.available_at END,
    event_seq = p.event_seq + CASE WHEN {_WAITS} THEN 1 ELSE 0 END,
    held = CASE WHEN {_WAITS} AND p.limit_keys IS NOT NULL THEN 'time' ELSE p.held END,
    waiting_for = NULL, waiting_until = NULL
WHERE p.id = ANY (ARRAY({{parents}})) AND p.completed_at IS NULL
  AND p.id <> ALL (ARRAY({{others}}))
RETURNING p.id, p.event_seq, p.attempt, p.status = '{_TARGET}' AND p.available_at = now() AS resumed
"""
"""Resumes the executions `parents` that wait, except those in `others`.

The statement may have begun before the parent was parked. Its condition must not name the status:
then it waits for the row, and the assignments see what the parent's statement has written.
"""

NEXT_SIBLINGS = """
    SELECT c.id FROM executions c
    WHERE c.parent_id = s.execution_id AND c.parent_step = s.number AND c.completed_at IS NULL
      AND c.held = 'parallel' AND c.status = 'pending'
    ORDER BY c.id
    LIMIT greatest(0, s.parallel - (
        SELECT count(*) FROM executions l
        WHERE l.parent_id = s.execution_id AND l.parent_step = s.number
          AND l.completed_at IS NULL AND l.held IS DISTINCT FROM 'parallel'
          AND l.id <> ALL (ARRAY({ended}))))
    FOR UPDATE SKIP LOCKED"""
"""The children of a step `s` that may run now; those in `ended` don't run any more."""


_COUNT = text(f"""
WITH added AS (
    SELECT {shard_of("id")} AS shard, count(*) AS number
    FROM unnest(CAST(:ids AS uuid[])) AS new (id) GROUP BY 1
), counted AS (
    INSERT INTO live_children (execution_id, shard, live)
    SELECT :id, shard, number FROM added ORDER BY shard
    ON CONFLICT (execution_id, shard) DO UPDATE SET live = live_children.live + excluded.live
    RETURNING shard, live
)
INSERT INTO live_children (execution_id, shard, live)
SELECT :id, 0, count(*) FILTER (WHERE counted.live = added.number)
FROM counted JOIN added USING (shard)
ON CONFLICT (execution_id, shard) DO UPDATE SET live = live_children.live + excluded.live
""")

_PARENT = text("""
SELECT cancel_requested_at IS NOT NULL, priority, queue, root_id,
       EXISTS (SELECT FROM children c
               WHERE c.parent_id = e.id AND c.step = :step
                 AND c.execution_id = ANY (CAST(:ids AS uuid[])))
FROM executions e
WHERE id = :id AND status = 'running' AND attempt = :attempt AND lease_token = :token
FOR NO KEY UPDATE
""")


@dataclass(frozen=True, slots=True)
class Parent:
    """What children inherit. `stored` if an earlier try has stored them."""

    cancelled: bool
    priority: int
    queue: str
    root_id: UUID
    stored: bool


def expect(
    connection: Connection, lease: Lease, *, step: int, execution_ids: Sequence[UUID]
) -> Parent | None:
    """Count new children of the step with this number, and lock their parent.

    Returns None if the lease is lost. The transaction must then be rolled back, and also if the
    parent is cancelled or has the children already; otherwise it goes on with `create` and `add`.
    """
    ids = list(execution_ids)
    connection.execute(_COUNT, {"id": lease.execution_id, "ids": ids})
    parameters = {
        "id": lease.execution_id,
        "attempt": lease.attempt,
        "token": lease.token,
        "step": step,
        "ids": ids,
    }
    row = connection.execute(_PARENT, parameters).one_or_none()
    if row is None:
        return None
    return Parent(row[0], row[1], row[2], row[3] or lease.execution_id, row[4])


_ADD = text("""
INSERT INTO children (parent_id, step, item, execution_id)
SELECT :id, :step, item, execution_id
FROM unnest(CAST(:items AS int[]), CAST(:ids AS uuid[])) AS new (item, execution_id)
ON CONFLICT (parent_id, step, item) DO UPDATE SET execution_id = excluded.execution_id
""")


def add(
    connection: Connection,
    parent_id: UUID,
    *,
    step: int,
    items: Sequence[int],
    execution_ids: Sequence[UUID],
) -> None:
    """Store which executions a step has started for these items of its list."""
    parameters = {"id": parent_id, "step": step, "items": list(items), "ids": list(execution_ids)}
    connection.execute(_ADD, parameters)


_COUNT_TREE = text("""
INSERT INTO execution_trees (execution_id, started) VALUES (:root_id, :number)
ON CONFLICT (execution_id) DO UPDATE SET started = execution_trees.started + excluded.started
RETURNING started
""")


def count_tree(connection: Connection, root_id: UUID, number: int) -> int:
    """Count new executions of the tree of `root_id`; return how many were started below it so far.

    Locks the tree's counter: call it last in the transaction.
    """
    parameters = {"root_id": root_id, "number": number}
    return int(connection.execute(_COUNT_TREE, parameters).scalar_one())


_DEPTH = text("""
WITH RECURSIVE up AS (
    SELECT parent_id, 1 AS depth FROM executions WHERE id = :id
    UNION ALL
    SELECT e.parent_id, up.depth + 1 FROM up JOIN executions e ON e.id = up.parent_id
    WHERE up.depth < :most
)
SELECT max(depth) FROM up
""")


def depth(connection: Connection, execution_id: UUID, *, most: int) -> int:
    """Return the generation of an execution, from 1; at most `most`."""
    parameters = {"id": execution_id, "most": most}
    return int(connection.execute(_DEPTH, parameters).scalar_one() or 0)


_OF_STEP = text("""
SELECT c.item, c.execution_id, e.status, e.error_code, e.error_message
FROM children c LEFT JOIN executions e ON e.id = c.execution_id
WHERE c.parent_id = :id AND c.step = :step AND c.item > :after
ORDER BY c.item
LIMIT :limit
""")


def of_step(
    connection: Connection,
    parent_id: UUID,
    *,
    step: int,
    after: int = -1,
    limit: int,
) -> dict[int, Child]:
    """Return the children of a step by their items, without results.

    In order, beginning behind the item `after`. A child that retention has deleted counts as
    failed.
    """
    parameters = {"id": parent_id, "step": step, "after": after, "limit": limit}
    return {row[0]: _child(row, None) for row in connection.execute(_OF_STEP, parameters)}


def _child(row: Sequence[Any], result: JsonValue) -> Child:
    if row[2] is None:
        return Child(row[1], Status.FAILED, None, "not_found", "The execution was deleted.")
    return Child(row[1], Status(row[2]), result, row[3], row[4])


_RESULTS = text("""
SELECT item, execution_id, status, error_code, error_message,
       CASE WHEN total <= :room THEN result END, total
FROM (
    SELECT page.*, sum(:each + coalesce(octet_length(error_message), 0)
                       + coalesce(octet_length(CAST(result AS text)), 0))
                   OVER (ORDER BY item) AS total
    FROM (
        SELECT c.item, c.execution_id, e.status, e.error_code, e.error_message, r.result
        FROM children c LEFT JOIN executions e ON e.id = c.execution_id
        LEFT JOIN execution_results r ON r.execution_id = e.id AND e.status = 'completed'
        WHERE c.parent_id = :id AND c.step = :step AND c.item > :after
        ORDER BY c.item
        LIMIT :limit
    ) AS page
) AS sized
ORDER BY item
""")
_BYTES_EACH = 200
"""What else a child has in a message: its id, its status and names."""


def results_of_step(
    connection: Connection, parent_id: UUID, *, step: int, after: int = -1, limit: int, room: int
) -> tuple[dict[int, Child], int]:
    """Return what `of_step` does, with results, and their size in bytes of JSON.

    If the size is over `room`, the results that exceed it are left out.
    """
    parameters = {
        "id": parent_id,
        "step": step,
        "after": after,
        "limit": limit,
        "room": room,
        "each": _BYTES_EACH,
    }
    rows = connection.execute(_RESULTS, parameters).all()
    return {row[0]: _child(row, row[5]) for row in rows}, int(rows[-1][6]) if rows else 0


_RELEASE = text(f"""
WITH family AS (
    SELECT s.execution_id, s.number, s.parallel, e.completed_at
    FROM steps s JOIN executions e ON e.id = s.execution_id
    WHERE s.status = 'waiting' AND s.parallel IS NOT NULL
      AND (s.execution_id = CAST(:id AS uuid) OR CAST(:id AS uuid) IS NULL)
    LIMIT :limit
), over AS (
    -- their children are cancelled: not looked at again
    UPDATE steps SET parallel = NULL
    WHERE execution_id = ANY (ARRAY(SELECT execution_id FROM family WHERE completed_at IS NOT NULL))
), freed AS (
    UPDATE executions c
    SET held = CASE WHEN c.limit_keys IS NOT NULL THEN 'time' END, available_at = now()
    WHERE c.id = ANY (ARRAY(
        SELECT picked.id FROM family s,
        LATERAL ({NEXT_SIBLINGS.format(ended="SELECT CAST(NULL AS uuid) WHERE false")}) AS picked
        WHERE s.completed_at IS NULL))
    RETURNING c.id
)
SELECT id FROM freed
""")


def release(
    connection: Connection, *, parent_id: UUID | None = None, limit: int = 100
) -> list[UUID]:
    """Release children of which fewer run than may run at once; return them.

    The end of a child releases the next one (`ended`), but can't see one that is stored meanwhile.
    """
    parameters = {"id": parent_id, "limit": limit}
    return list(connection.execute(_RELEASE, parameters).scalars())


_ORPHANS = text("""
SELECT c.id FROM ended_parents p
JOIN LATERAL (
    SELECT e.id FROM executions e
    WHERE e.parent_id = p.execution_id AND e.completed_at IS NULL
      AND e.cancel_requested_at IS NULL
    LIMIT :limit
) AS c ON true
LIMIT :limit
""")


def orphans(connection: Connection, *, limit: int) -> list[UUID]:
    """Return children to cancel, because their parents have ended or are being cancelled."""
    return list(connection.execute(_ORPHANS, {"limit": limit}).scalars())


_FORGET_PARENTS = text("""
WITH done AS (
    SELECT p.execution_id FROM ended_parents p
    WHERE NOT EXISTS (
        SELECT FROM executions e
        WHERE e.parent_id = p.execution_id AND e.completed_at IS NULL
          AND e.cancel_requested_at IS NULL)
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
DELETE FROM ended_parents WHERE execution_id = ANY (ARRAY(SELECT execution_id FROM done))
""")


def forget_parents(connection: Connection, *, limit: int) -> None:
    """Forget ended parents without children to cancel.

    No child is added any more: that needs a parent that runs and isn't cancelled.
    """
    connection.execute(_FORGET_PARENTS, {"limit": limit})


_ANY_OF = text(f"""
SELECT EXISTS (SELECT FROM executions WHERE {spans.given("id")} AND parent_id IS NOT NULL)
""")


def any_of(connection: Connection, execution_ids: Sequence[UUID]) -> bool:
    """Whether any of these executions has a parent."""
    return bool(connection.execute(_ANY_OF, spans.of(execution_ids)).scalar_one())


_COUNTS = text("""
SELECT status, count(*) FROM executions WHERE parent_id = :id GROUP BY status
""")


def counts(connection: Connection, parent_id: UUID) -> dict[Status, int]:
    """Return how many children of an execution have each status."""
    rows = connection.execute(_COUNTS, {"id": parent_id})
    return {Status(row[0]): int(row[1]) for row in rows}
