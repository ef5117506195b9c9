"""Limits by key of executions: who has the slots, who waits for one, and who gets the next.

Slots are counted by rows. To have one is only written by who has locked the key, in a statement
after that of the lock: so it sees all that had the lock before. A slot is given back by the
statement that ends the attempt (`ended`), and needs no lock. Who has locked a key waits for no row
of an execution; two who give slots of one key do so one after the other, and the second sees what
the first has left.

A rate is a limit, too: its slots are those that may begin now. It has a row with the time at which
the next would begin in even intervals (the generic cell rate algorithm); who gives slots moves it
on.

The numbers of a limit of the workspace are those of its row, whenever they were changed. Of a
deleted one there are always slots, until the executions that name it have ended.

An execution waits in the line of one of its keys only. Whoever looks for the next in a line reads
its first ones, and none of those that wait for other keys, however many these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, bindparam, text

from celeriac.db import spans
from celeriac.db.executions.paused import paused, slots_paused
from celeriac.db.limits import ROW, UNLIMITED
from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import reader
from celeriac.domain.executions.limits import ExecutionLimit, Wants
from celeriac.domain.limits import KeyedLimit, SlotUser

_MOST_USERS = 1_000
_SHOWN_HOLDERS = 5

_IN_EFFECT = f"""
       CASE WHEN {{l}}.limit_id IS NULL THEN {{l}}.max ELSE coalesce(of_row.max, {UNLIMITED}) END
           AS max,
       CASE WHEN {{l}}.limit_id IS NULL THEN {{l}}.interval_seconds
            ELSE of_row.seconds / of_row.max END AS interval_seconds,
       CASE WHEN {{l}}.limit_id IS NULL THEN {{l}}.burst
            ELSE coalesce(of_row.burst, greatest(1, ceil(of_row.max / of_row.seconds))) END
           AS burst"""
"""The numbers of a limit `l` that hold now, as SQL, with `ROW` behind it."""

_LOCK = text("""
SELECT pg_advisory_xact_lock(:locks, hashed.lock) FROM (
    SELECT DISTINCT hashtext(CAST(:workspace_id AS text) || key) AS lock
    FROM unnest(CAST(:keys AS text[])) AS k (key)
    ORDER BY 1) AS hashed
""").bindparams(bindparam("locks", AdvisoryLock.EXECUTION_LIMIT.value))


def lock(connection: Connection, workspace_id: UUID, keys: Sequence[str]) -> None:
    """Lock keys of a workspace until the transaction ends. Count in a later statement."""
    connection.execute(_LOCK, {"workspace_id": workspace_id, "keys": list(keys)})


_FIRST = text("""
SELECT o.execution_id, o.key FROM execution_limits o
WHERE o.execution_id = ANY (ARRAY(
    SELECT execution_id FROM execution_limits
    WHERE workspace_id = :workspace_id AND key = :key AND state = 'waiting'
    ORDER BY place, execution_id LIMIT :limit))
""")

_HOLD = text(f"""
SELECT e.id, {paused("e")} FROM executions e
WHERE {spans.given("e.id")} AND e.status = 'pending' AND e.held = 'limit'
FOR NO KEY UPDATE SKIP LOCKED
""")

_WANTS = text(f"""
WITH wanted AS (
    SELECT w.execution_id, w.place, o.key, o.limit_id, {_IN_EFFECT.format(l="o")}
    FROM execution_limits w JOIN execution_limits o USING (execution_id)
    {ROW.format(l="o")}
    WHERE w.execution_id = ANY (CAST(:ids AS uuid[]))
      AND o.execution_id = ANY (CAST(:ids AS uuid[])) AND w.key = :key AND w.state = 'waiting'
)
SELECT wanted.execution_id, wanted.key,
       CASE WHEN {slots_paused(":workspace_id", "wanted.key", "wanted.limit_id")} THEN 0
            WHEN wanted.interval_seconds IS NULL THEN wanted.max
            ELSE floor(wanted.burst - greatest(0, coalesce(
                extract(epoch FROM rate.next_at - now()), 0)) / wanted.interval_seconds)
       END AS max,
       counted.used
FROM wanted LEFT JOIN execution_rates rate
    ON rate.workspace_id = :workspace_id AND rate.key = wanted.key
JOIN (
    SELECT named.key, (
        SELECT count(*) FROM (
            SELECT FROM execution_limits u
            WHERE u.workspace_id = :workspace_id AND u.key = named.key AND u.state = 'held'
            LIMIT named.most) AS held) AS used
    FROM (SELECT key, coalesce(max(max) FILTER (WHERE interval_seconds IS NULL), 0) AS most
          FROM wanted GROUP BY key) AS named) AS counted ON counted.key = wanted.key
ORDER BY wanted.place, wanted.execution_id, wanted.key
""")


def first(
    connection: Connection, workspace_id: UUID, key: str, *, limit: int
) -> tuple[list[UUID], set[str]]:
    """Return the first executions of the line of a key, and all keys that they have."""
    parameters = {"workspace_id": workspace_id, "key": key, "limit": limit}
    rows = connection.execute(_FIRST, parameters).all()
    return list(dict.fromkeys(row.execution_id for row in rows)), {row.key for row in rows}


def hold(connection: Connection, ids: Sequence[UUID]) -> tuple[list[UUID], list[UUID]]:
    """Lock those of the executions that wait for slots and that nobody else has locked.

    Returns those that may begin, and those that a pause is about.
    """
    rows = connection.execute(_HOLD, spans.of(ids)).all()
    return [row[0] for row in rows if not row[1]], [row[0] for row in rows if row[1]]


def wants(connection: Connection, workspace_id: UUID, key: str, ids: Sequence[UUID]) -> list[Wants]:
    """Return what those of the locked executions need that wait in the line of a locked key.

    In the order of the line. All keys that they have must be locked.
    """
    parameters = {"workspace_id": workspace_id, "key": key, "ids": list(ids)}
    found: dict[UUID, Wants] = {}
    for row in connection.execute(_WANTS, parameters):
        each = found.setdefault(row.execution_id, Wants(row.execution_id, []))
        each.limits.append((row.key, int(row.max), row.used))
    return list(found.values())


_GIVE = text(f"""
WITH given AS (
    UPDATE execution_limits SET state = 'held'
    WHERE execution_id = ANY (CAST(:ids AS uuid[]))
), rates AS (
    SELECT l.workspace_id, l.key, {_IN_EFFECT.format(l="l")}
    FROM execution_limits l {ROW.format(l="l")}
    WHERE l.execution_id = ANY (CAST(:ids AS uuid[]))
), rated AS (
    INSERT INTO execution_rates (workspace_id, key, next_at)
    SELECT workspace_id, key, now() + make_interval(secs => sum(interval_seconds))
    FROM rates WHERE interval_seconds IS NOT NULL
    GROUP BY workspace_id, key
    ON CONFLICT (workspace_id, key) DO UPDATE
    SET next_at = greatest(execution_rates.next_at, now()) + (excluded.next_at - now())
), admitted AS (
    UPDATE executions SET held = NULL
    WHERE {spans.given("id")} AND status = 'pending' AND held = 'limit'
    RETURNING id
)
-- if a crash of the server loses it, the slots are given again
SELECT id, set_config('synchronous_commit', 'off', true) FROM admitted
""")


def give(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Give locked executions a slot of each of their keys, which must be locked and have some."""
    return [row.id for row in connection.execute(_GIVE, spans.of(ids))]


_MOVE = text("""
UPDATE execution_limits l
SET state = CASE WHEN l.key = moved.line THEN 'waiting' ELSE 'elsewhere' END
FROM unnest(CAST(:ids AS uuid[]), CAST(:lines AS text[])) AS moved (id, line)
WHERE l.execution_id = moved.id AND l.execution_id = ANY (CAST(:ids AS uuid[]))
""")


def move(connection: Connection, lines: Sequence[tuple[UUID, str]]) -> None:
    """Let locked executions wait in the line of another of their keys."""
    parameters = {"ids": [id_ for id_, _ in lines], "lines": [line for _, line in lines]}
    connection.execute(_MOVE, parameters)


# The limits of the workspace that a submission knows may be old: their rows say what holds.
_TAKEN = text(f"""
SELECT l.key, l.max, (
    SELECT u.execution_id FROM execution_limits u
    WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'held'
    ORDER BY u.execution_id LIMIT 1) AS holder, (
    SELECT u.execution_id FROM execution_limits u
    WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state IN ('waiting', 'elsewhere')
    LIMIT 1) AS waiting
FROM (
    SELECT given.key,
           CASE WHEN given.limit_id IS NULL THEN given.max
                WHEN of_row.policy = 'cancel_new' THEN of_row.max ELSE {UNLIMITED} END AS max
    FROM unnest(CAST(:keys AS text[]), CAST(:maxima AS int[]), CAST(:limit_ids AS uuid[]))
        AS given (key, max, limit_id)
    {ROW.format(l="given")}) AS l
WHERE (SELECT count(*) FROM (
           (SELECT FROM execution_limits u
            WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'held'
            LIMIT l.max)
           UNION ALL
           (SELECT FROM execution_limits u
            WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'waiting'
            LIMIT l.max)
           UNION ALL
           (SELECT FROM execution_limits u
            WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'elsewhere'
            LIMIT l.max)) AS using_it) >= l.max
ORDER BY l.key LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Taken:
    """A key of which no slot is free, and an execution that has one, or waits for one."""

    key: str
    max: int
    execution_id: UUID


def first_taken(
    connection: Connection, workspace_id: UUID, limits: Sequence[KeyedLimit]
) -> Taken | None:
    """Return the first of locked keys of which no slot is free, or None."""
    parameters = {
        "workspace_id": workspace_id,
        "keys": [each.key for each in limits],
        "maxima": [each.max for each in limits],
        "limit_ids": [each.limit_id for each in limits],
    }
    row = connection.execute(_TAKEN, parameters).first()
    return None if row is None else Taken(row.key, row.max, row.holder or row.waiting)


_USERS = text(f"""
SELECT u.execution_id, u.state = 'held', u.policy,
       CASE WHEN u.limit_id IS NULL THEN u.max ELSE coalesce(of_row.max, {UNLIMITED}) END,
       e.started_at IS NOT NULL,
       e.cancel_requested_at IS NULL AND e.completed_at IS NULL
FROM (
    (SELECT * FROM execution_limits
     WHERE workspace_id = :workspace_id AND key = :key AND state = 'held'
     ORDER BY execution_id LIMIT :limit)
    UNION ALL
    (SELECT * FROM execution_limits
     WHERE workspace_id = :workspace_id AND key = :key AND state = 'waiting'
     ORDER BY place, execution_id LIMIT :limit)
    UNION ALL
    (SELECT * FROM execution_limits
     WHERE workspace_id = :workspace_id AND key = :key AND state = 'elsewhere'
     ORDER BY place, execution_id LIMIT :limit)) AS u
JOIN executions e ON e.id = u.execution_id
{ROW.format(l="u")}
ORDER BY u.place, u.execution_id
""")
_user = reader(SlotUser)


def users(
    connection: Connection, workspace_id: UUID, key: str
) -> tuple[list[SlotUser], list[SlotUser]]:
    """Return who has a slot of a key, by age, and who waits for one, in the order of its turn.

    Up to 1,000 of both.
    """
    parameters = {"workspace_id": workspace_id, "key": key, "limit": _MOST_USERS}
    found = [_user(row) for row in connection.execute(_USERS, parameters)]
    held = sorted((each for each in found if each.has_slot), key=lambda each: each.id)
    return held, [each for each in found if not each.has_slot]


_HAS_POLICIES = """EXISTS (
    SELECT FROM execution_limits p
    WHERE p.workspace_id = {workspace_id} AND p.key = {key}
      AND p.state IN ('waiting', 'elsewhere') AND p.policy <> 'queue')"""
_POLICIES = text("SELECT " + _HAS_POLICIES.format(workspace_id=":workspace_id", key=":key"))


def has_policies(connection: Connection, workspace_id: UUID, key: str) -> bool:
    """Whether not all executions that wait for a key just wait for their turn."""
    parameters = {"workspace_id": workspace_id, "key": key}
    return bool(connection.execute(_POLICIES, parameters).scalar_one())


_LINES = text(
    """
WITH RECURSIVE line (workspace_id, key, no) AS (
    (SELECT workspace_id, key, 1 FROM execution_limits
     WHERE state = 'waiting' AND (workspace_id, key) > (:workspace_id, :key)
     ORDER BY workspace_id, key LIMIT 1)
    UNION ALL
    SELECT next.workspace_id, next.key, line.no + 1
    FROM line, LATERAL (
        SELECT workspace_id, key FROM execution_limits l
        WHERE l.state = 'waiting' AND (l.workspace_id, l.key) > (line.workspace_id, line.key)
        ORDER BY l.workspace_id, l.key LIMIT 1) AS next
    WHERE line.no < :limit
)
SELECT line.workspace_id, line.key,
       """
    + _HAS_POLICIES.format(workspace_id="line.workspace_id", key="line.key")
    + f""" AS policies,
       CASE WHEN {slots_paused("line.workspace_id", "line.key", "head.limit_id")} THEN false
            WHEN head.interval_seconds IS NULL THEN head.max > (
           SELECT count(*) FROM (
               SELECT FROM execution_limits u
               WHERE u.workspace_id = line.workspace_id AND u.key = line.key AND u.state = 'held'
               LIMIT head.max) AS held)
       ELSE NOT EXISTS (
           SELECT FROM execution_rates rate
           WHERE rate.workspace_id = line.workspace_id AND rate.key = line.key
             AND rate.next_at > now() + make_interval(secs => head.interval_seconds
                                                              * (head.burst - 1)))
       END AS free
FROM line, LATERAL (
    SELECT w.limit_id, {_IN_EFFECT.format(l="w")}
    FROM execution_limits w {ROW.format(l="w")}
    WHERE w.workspace_id = line.workspace_id AND w.key = line.key AND w.state = 'waiting'
    ORDER BY w.place, w.execution_id LIMIT 1) AS head
ORDER BY line.no
"""
)


@dataclass(frozen=True, slots=True)
class Line:
    """A key for which executions wait.

    `policies`: not all of them just wait for their turn. `free`: there is a slot for the first.
    """

    workspace_id: UUID
    key: str
    policies: bool
    free: bool


def lines(connection: Connection, *, after: Line | None, limit: int) -> list[Line]:
    """Return up to `limit` keys for which executions wait, those behind `after`."""
    parameters = {
        "workspace_id": UUID(int=0) if after is None else after.workspace_id,
        "key": "" if after is None else after.key,
        "limit": limit,
    }
    return [Line(*row) for row in connection.execute(_LINES, parameters)]


_FORGET_RATES = text("""
DELETE FROM execution_rates
WHERE (workspace_id, key) IN (
    SELECT workspace_id, key FROM execution_rates
    WHERE next_at < now() - interval '1 minute'
    ORDER BY next_at LIMIT :limit
    FOR UPDATE SKIP LOCKED)
""")


def forget_rates(connection: Connection, *, limit: int) -> int:
    """Delete rates of which nothing has begun lately; return how many."""
    return connection.execute(_FORGET_RATES, {"limit": limit}).rowcount


_KEYS_OF = text(f"""
SELECT DISTINCT e.workspace_id, k.key
FROM executions e, unnest(e.limit_keys) AS k (key)
WHERE {spans.given("e.id")} AND e.limit_keys IS NOT NULL
  AND EXISTS (SELECT FROM execution_limits l
              WHERE l.workspace_id = e.workspace_id AND l.key = k.key AND l.state = 'waiting')
LIMIT :limit
""")


def keys_of(
    connection: Connection, execution_ids: Sequence[UUID], *, limit: int
) -> list[tuple[UUID, str]]:
    """Return up to `limit` keys of executions for which others wait, with their workspaces."""
    rows = connection.execute(_KEYS_OF, {"limit": limit, **spans.of(execution_ids)})
    return [(row[0], row[1]) for row in rows]


_SET_PLACE = text("""
UPDATE execution_limits SET place = :place
WHERE execution_id = ANY (CAST(:ids AS uuid[])) AND place > 0
""")


def set_place(connection: Connection, execution_ids: Sequence[UUID], place: int) -> None:
    """Give executions that have not begun another place in their lines."""
    connection.execute(_SET_PLACE, {"ids": list(execution_ids), "place": place})


_SHOWN = text(f"""
SELECT l.key, l.max, l.policy, l.state, (
    SELECT count(*) FROM (
        SELECT FROM execution_limits u
        WHERE u.workspace_id = l.workspace_id AND u.key = l.key AND u.state = 'held'
        LIMIT l.max) AS held) AS used, ARRAY(
    SELECT u.execution_id FROM execution_limits u
    WHERE u.workspace_id = l.workspace_id AND u.key = l.key AND u.state = 'held'
    ORDER BY u.execution_id LIMIT :holders) AS holders, (
    SELECT count(*) FROM (
        SELECT FROM execution_limits w
        WHERE w.workspace_id = l.workspace_id AND w.key = l.key AND w.state = 'waiting'
          AND l.state = 'waiting' AND (w.place, w.execution_id) < (l.place, l.execution_id)
        LIMIT :most) AS before) AS ahead, l.interval_seconds,
       (SELECT rate.next_at - make_interval(secs => l.interval_seconds * (l.burst - 1))
        FROM execution_rates rate
        WHERE rate.workspace_id = l.workspace_id AND rate.key = l.key
          AND l.interval_seconds IS NOT NULL) AS next_at, l.limit_id, l.name
FROM (
    SELECT o.execution_id, o.key, o.workspace_id, o.policy, o.state, o.place, o.limit_id,
           of_row.name, {_IN_EFFECT.format(l="o")}
    FROM execution_limits o {ROW.format(l="o")}
    WHERE o.execution_id = :id AND (o.limit_id IS NULL OR of_row.id IS NOT NULL)) AS l
ORDER BY l.key
""").bindparams(bindparam("holders", _SHOWN_HOLDERS))
_shown = reader(ExecutionLimit)


def shown(connection: Connection, execution_id: UUID, *, most: int) -> list[ExecutionLimit]:
    """Return the limits of an execution that has not ended; what comes first up to `most`."""
    parameters = {"id": execution_id, "most": most}
    return [_shown(row) for row in connection.execute(_SHOWN, parameters)]
