"""Gives a new limit of a workspace to the executions that were submitted before it.

The keeper walks over all live executions of the workspace in the order of their ids, some at a
time. What runs, or is sent, has a slot from then on, also if that makes more than there are; what
has not begun waits for one. A second walk finds what was stored by transactions that had not seen
the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.db.executions.guards import with_guards
from celeriac.db.limits import SETTLED_SECONDS
from celeriac.domain.executions.states import Transition
from celeriac.domain.labels import Labels
from celeriac.domain.limits import KeyedLimit
from celeriac.kit.json_types import JsonObject

_CLAIM = text("""
SELECT id, workspace_id, task_id, workflow_id, walks, walked_to, deleted_at IS NOT NULL
FROM limits WHERE look_at <= now()
ORDER BY look_at, id LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED
""")


@dataclass(frozen=True, slots=True)
class Look:
    """A limit at which the keeper looks, because it is new or `deleted`."""

    id: UUID
    workspace_id: UUID
    task_id: UUID | None
    workflow_id: UUID | None
    walks: int
    walked_to: UUID
    deleted: bool


def claim(connection: Connection) -> Look | None:
    """Lock the limit whose look is due longest, or return None."""
    row = connection.execute(_CLAIM).one_or_none()
    return None if row is None else Look(*row)


_LIVE_OF_STATUS = """
    (SELECT id FROM executions
     WHERE workspace_id = :workspace_id AND status = '{status}' AND max_crashes <> -1
       AND id > :after
     ORDER BY id LIMIT :limit)"""
_LIVE = text(
    "SELECT id FROM ("
    + "\n    UNION ALL".join(
        _LIVE_OF_STATUS.format(status=status)
        for status in ("pending", "queued", "running", "waiting")
    )
    + ") AS live ORDER BY id LIMIT :limit"
)


def live(connection: Connection, look: Look, *, limit: int) -> list[UUID]:
    """Return the next live executions of the workspace, up to `limit`."""
    parameters = {"workspace_id": look.workspace_id, "after": look.walked_to, "limit": limit}
    return list(connection.execute(_LIVE, parameters).scalars())


_HOLD = text(f"""
SELECT e.id FROM executions e
WHERE {spans.given("e.id")} AND e.completed_at IS NULL
  AND (CAST(:task_id AS uuid) IS NULL OR e.task_id = :task_id)
  AND (CAST(:workflow_id AS uuid) IS NULL OR e.workflow_id = :workflow_id)
  AND NOT EXISTS (SELECT FROM execution_limits l
                  WHERE l.execution_id = e.id AND l.limit_id = :limit_id)
ORDER BY e.id
FOR NO KEY UPDATE OF e
""")

_NAMED = f"""
SELECT e.id, t.name, e.owner_id, {{variables}}, e.labels
FROM executions e JOIN tasks t ON t.id = e.task_id{{inputs}}
WHERE {spans.given("e.id")} AND e.completed_at IS NULL
"""
_WITHOUT_VARIABLES = text(_NAMED.format(variables="NULL", inputs=""))
_WITH_VARIABLES = text(
    _NAMED.format(
        variables="i.variables",
        inputs=f"""
LEFT JOIN execution_inputs i ON i.execution_id = e.id AND {spans.given("i.execution_id")}""",
    )
)

# as stored, perhaps compressed: nothing is read but the rows
_SIZES = text(f"""
SELECT execution_id, pg_column_size(variables) FROM execution_inputs
WHERE {spans.given("execution_id")} ORDER BY execution_id
""")


@dataclass(frozen=True, slots=True)
class Unlimited:
    """An execution that lacks the limit, with what its key may name."""

    id: UUID
    task_name: str
    owner_id: UUID
    variables: JsonObject
    labels: Labels


def within(connection: Connection, ids: Sequence[UUID], *, most_bytes: int) -> list[UUID]:
    """Return the first of some executions, in order, whose variables are so large together.

    At least one of them, and those without variables that lie between.
    """
    total = 0
    for execution_id, size in connection.execute(_SIZES, spans.of(ids)):
        if total and total + size > most_bytes:
            return [each for each in ids if each < execution_id]
        total += size
    return list(ids)


def hold_unlimited(
    connection: Connection, look: Look, ids: Sequence[UUID], *, with_variables: bool
) -> list[Unlimited]:
    """Lock those of some executions that the limit is about and that lack it; return them.

    Their variables are empty unless they are wanted.
    """
    subject = {"task_id": look.task_id, "workflow_id": look.workflow_id}
    parameters = {"limit_id": look.id, **subject, **spans.of(ids)}
    held = list(connection.execute(_HOLD, parameters).scalars())
    if not held:
        return []
    # a statement of its own sees the rows as they are since they are locked
    query = _WITH_VARIABLES if with_variables else _WITHOUT_VARIABLES
    rows = connection.execute(query, spans.of(held))
    return [Unlimited(row[0], row[1], row[2], row[3] or {}, row[4] or {}) for row in rows]


_GIVE_BACK = with_guards(
    f"""
UPDATE execution_limits SET state = 'none'
WHERE execution_id = ANY (ARRAY(
        SELECT id FROM executions
        WHERE {spans.given("id")} AND status IN ({{queue_from}}) AND held IS NULL))
  AND state <> 'none'
""",
    queue=Transition.QUEUE,
)

_ATTACH = with_guards(
    f"""
WITH keyed AS (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[])) AS k (id, key)
), changed AS (
    -- what may be sent is held again: `release_due` lets it wait for its slots
    UPDATE executions e
    SET limit_keys = ARRAY(SELECT DISTINCT unnest(e.limit_keys || keyed.key) ORDER BY 1),
        held = CASE WHEN e.status IN ({{queue_from}}) AND e.held IS NULL THEN 'time'
                    ELSE e.held END
    FROM keyed
    WHERE e.id = keyed.id AND {spans.given("e.id")} AND e.completed_at IS NULL
    RETURNING e.id, e.workspace_id, e.status, e.held, e.started_at, e.priority, keyed.key
)
INSERT INTO execution_limits (execution_id, key, workspace_id, max, policy, state, place,
                              interval_seconds, burst, limit_id)
SELECT id, key, workspace_id, :max, 'queue',
       CASE WHEN status IN ('queued', 'running') THEN 'held'
            WHEN held = 'limit' THEN 'elsewhere' ELSE 'none' END,
       CASE WHEN started_at IS NULL THEN :last_place - priority ELSE 0 END,
       CAST(:interval AS double precision), CAST(:burst AS int), :limit_id
FROM changed
-- a limit that was deleted may have had the same name
ON CONFLICT (execution_id, key) DO UPDATE SET limit_id = excluded.limit_id, policy = 'queue'
""",
    queue=Transition.QUEUE,
)


def attach(
    connection: Connection, keyed: Sequence[tuple[UUID, KeyedLimit]], *, last_place: int
) -> None:
    """Give locked executions a limit; what has not begun gives up its other slots, and waits.

    None is cancelled: they wait, whatever the policy is.
    """
    ids = [id_ for id_, _ in keyed]
    limit = keyed[0][1]
    connection.execute(_GIVE_BACK, spans.of(ids))
    parameters = {
        "keys": [each.key for _, each in keyed],
        "max": limit.max,
        "interval": limit.interval,
        "burst": limit.burst,
        "limit_id": limit.limit_id,
        "last_place": last_place,
        **spans.of(ids),
    }
    connection.execute(_ATTACH, parameters)


# now(): limits take turns, so a long walk holds up no other
_WALK_ON = text("UPDATE limits SET walked_to = :after, look_at = now() WHERE id = :id")
_END_WALK = text("""
UPDATE limits
SET walks = walks - 1, walked_to = '00000000-0000-0000-0000-000000000000',
    look_at = CASE WHEN walks > 1 THEN now() + make_interval(secs => :seconds) END
WHERE id = :id
""")


def walk_on(connection: Connection, look: Look, after: UUID | None) -> None:
    """Store how far the walk has come; None: it has seen all."""
    if after is not None:
        connection.execute(_WALK_ON, {"id": look.id, "after": after})
    else:
        connection.execute(_END_WALK, {"id": look.id, "seconds": SETTLED_SECONDS})


_POSTPONE = text("""
UPDATE limits SET look_at = now() + make_interval(secs => :seconds)
WHERE id = :id AND look_at <= now()
""")


def postpone(connection: Connection, limit_id: UUID, *, seconds: float) -> None:
    """Look at a limit later, from where its walk is now."""
    connection.execute(_POSTPONE, {"id": limit_id, "seconds": seconds})


_FORGET = text("""
WITH used AS (
    (SELECT FROM execution_limits WHERE limit_id = :id LIMIT 1)
    UNION ALL
    (SELECT FROM run_limits WHERE limit_id = :id LIMIT 1)
), later AS (
    UPDATE limits SET look_at = now() + make_interval(secs => :seconds)
    WHERE id = :id AND EXISTS (SELECT FROM used)
)
DELETE FROM limits WHERE id = :id AND NOT EXISTS (SELECT FROM used)
""")


def forget(connection: Connection, look: Look) -> None:
    """Drop the row of a deleted limit, or look again later if something still names it."""
    connection.execute(_FORGET, {"id": look.id, "seconds": SETTLED_SECONDS})
