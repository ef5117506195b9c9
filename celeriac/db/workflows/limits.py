"""Limits of runs: who has the slots of a key, who waits for one, and who gets the next.

Slots are counted by rows. To have one is only written by who has locked the key, in a statement
after that of the lock: so it sees all that had the lock before. A slot is given back by the
statement that ends the run, or parks it, and needs no lock. A transaction locks rows of runs
before keys.

The number of a limit of the workspace is that of its row, whenever it was changed: statements that
count read it, and lock no row of a limit. Of a deleted one there are always slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, bindparam, text

from celeriac.db.limits import ROW, UNLIMITED
from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import reader
from celeriac.domain.limit_policies import LimitCount
from celeriac.domain.limits import KeyedLimit, SlotUser
from celeriac.domain.tasks import Priority
from celeriac.domain.workflows.limits import RunLimit, SlotState

_MOST_USERS = 1_000
_SHOWN_HOLDERS = 5

# a row of a limit is read by its key, and only for those that have one
NOW = f"""CASE WHEN {{l}}.limit_id IS NULL THEN {{l}}.max ELSE coalesce((
    SELECT of_row.max FROM limits of_row
    WHERE of_row.id = {{l}}.limit_id AND of_row.deleted_at IS NULL), {UNLIMITED}) END"""
"""The number of a limit `l` that holds now, as SQL."""

_ADD = text("""
INSERT INTO run_limits (run_id, key, workspace_id, max, policy, count, limit_id, place)
SELECT :run_id, l.key, :workspace_id, l.max, l.policy, l.count, l.limit_id, :place
FROM unnest(CAST(:keys AS text[]), CAST(:maxima AS int[]), CAST(:policies AS text[]),
            CAST(:counts AS text[]), CAST(:limit_ids AS uuid[]))
    AS l (key, max, policy, count, limit_id)
""")
_PLACE_TO_GO_ON = 0
_LAST_PLACE = 100


def add(
    connection: Connection,
    run_id: UUID,
    workspace_id: UUID,
    limits: Sequence[KeyedLimit],
    *,
    priority: int | None,
    begun: bool = False,
) -> None:
    """Store the limits of a new run, which waits for its slots; `begun`: before all others."""
    if not limits:
        return
    wanted = Priority.NORMAL if priority is None else priority
    parameters = {
        "run_id": run_id,
        "workspace_id": workspace_id,
        "keys": [each.key for each in limits],
        "maxima": [each.max for each in limits],
        "policies": [each.policy.value for each in limits],
        "counts": [each.count.value for each in limits],
        "limit_ids": [each.limit_id for each in limits],
        "place": _PLACE_TO_GO_ON if begun else _LAST_PLACE - wanted,
    }
    connection.execute(_ADD, parameters)


_LOCK = text("""
SELECT pg_advisory_xact_lock(:locks, hashed.lock) FROM (
    SELECT DISTINCT hashtext(CAST(:workspace_id AS text) || key) AS lock
    FROM unnest(CAST(:keys AS text[])) AS k (key)
    ORDER BY 1) AS hashed
""").bindparams(bindparam("locks", AdvisoryLock.RUN_LIMIT.value))


def lock(connection: Connection, workspace_id: UUID, keys: Sequence[str]) -> None:
    """Lock keys of a workspace until the transaction ends. Count in a later statement."""
    connection.execute(_LOCK, {"workspace_id": workspace_id, "keys": list(keys)})


# The policy of a limit of the workspace may have changed since the submission has read it.
_TAKEN = text(f"""
SELECT l.key, l.max, (
    SELECT u.run_id FROM run_limits u
    WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'held'
    ORDER BY u.run_id LIMIT 1) AS holder, (
    SELECT u.run_id FROM run_limits u
    WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'waiting'
    ORDER BY u.place, u.run_id LIMIT 1) AS first
FROM (
    SELECT given.key,
           CASE WHEN given.limit_id IS NULL THEN given.max
                WHEN of_row.policy = 'cancel_new' THEN of_row.max ELSE {UNLIMITED} END AS max
    FROM unnest(CAST(:keys AS text[]), CAST(:maxima AS int[]), CAST(:limit_ids AS uuid[]))
        AS given (key, max, limit_id)
    {ROW.format(l="given")}) AS l
WHERE (SELECT count(*) FROM (
           SELECT FROM run_limits u
           WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'held'
           LIMIT l.max) AS held)
    + (SELECT count(*) FROM (
           SELECT FROM run_limits u
           WHERE u.workspace_id = :workspace_id AND u.key = l.key AND u.state = 'waiting'
           LIMIT l.max) AS waiting) >= l.max
ORDER BY l.key LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Taken:
    """A key of which no slot is free, and a run that has one, or is the first that waits."""

    key: str
    max: int
    run_id: UUID


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
    return None if row is None else Taken(row.key, row.max, row.holder or row.first)


@dataclass(frozen=True, slots=True)
class Slot:
    """What a run has of one of its keys."""

    key: str
    state: SlotState
    count: LimitCount


_OF_RUN = text("SELECT key, state, count FROM run_limits WHERE run_id = :run_id ORDER BY key")
_slot = reader(Slot)


def of_run(connection: Connection, run_id: UUID) -> list[Slot]:
    """Return what a run has of its keys; nothing if it has ended, or has no limits."""
    return [_slot(row) for row in connection.execute(_OF_RUN, {"run_id": run_id})]


_OF_ANCESTORS = text("""
WITH RECURSIVE above (id) AS (
    SELECT CAST(:run_id AS uuid)
    UNION ALL
    SELECT r.parent_run_id FROM above JOIN workflow_runs r ON r.id = above.id
    WHERE r.parent_run_id IS NOT NULL
)
SELECT DISTINCT l.key FROM above JOIN run_limits l ON l.run_id = above.id
WHERE l.count = 'active'
""")


def kept_above(connection: Connection, run_id: UUID) -> frozenset[str]:
    """Return the keys of which a run, or one above it, keeps its slot until it ends."""
    return frozenset(connection.execute(_OF_ANCESTORS, {"run_id": run_id}).scalars())


# A run that is to be cancelled before it has begun ends in its next turn, and gets no slot.
_FIRST = """{with_}
SELECT w.run_id, (
    SELECT count(*) FROM (
        SELECT FROM run_limits u
        WHERE u.workspace_id = :workspace_id AND u.key = :key AND u.state = 'held'
        LIMIT {now_of_w}) AS held) >= {now_of_w} AS full
FROM run_limits w JOIN workflow_runs r ON r.id = w.run_id
WHERE w.workspace_id = :workspace_id AND w.key = :key AND w.state = 'waiting'
  AND r.completed_at IS NULL
  AND (r.status <> 'pending'
       OR r.cancel_requested_at IS NULL AND r.error_code IS NULL AND NOT r.overdue){others}
ORDER BY w.place, w.run_id LIMIT 1
"""
_NOW_OF_W = NOW.format(l="w")
_FIRST_OF_ALL = text(_FIRST.format(with_="", others="", now_of_w=_NOW_OF_W))
# each of the other keys is counted once, not for each run that waits for it
_FIRST_OF_OTHERS = text(
    _FIRST.format(
        now_of_w=_NOW_OF_W,
        with_=f"""
WITH other AS MATERIALIZED (
    SELECT o.run_id, o.key, {NOW.format(l="o")} AS max
    FROM run_limits w JOIN run_limits o ON o.run_id = w.run_id
    WHERE w.workspace_id = :workspace_id AND w.key = :key AND w.state = 'waiting'
      AND o.state = 'waiting' AND o.key <> :key
), taken AS MATERIALIZED (
    SELECT key, max FROM (SELECT DISTINCT key, max FROM other) AS named
    WHERE key = ANY(CAST(:without AS text[])) OR (
        SELECT count(*) FROM (
            SELECT FROM run_limits u
            WHERE u.workspace_id = :workspace_id AND u.key = named.key AND u.state = 'held'
            LIMIT named.max) AS held) >= max
)""",
        others="""
  AND w.run_id NOT IN (SELECT other.run_id FROM other JOIN taken USING (key, max))""",
    )
)


def first_waiting(
    connection: Connection, workspace_id: UUID, key: str, *, without: Sequence[str] = ()
) -> tuple[UUID, bool] | None:
    """Return the run that gets the next slot of a key, and whether none is free now.

    With `without`, keys of which no slot is free, runs are passed over that wait for one of them,
    or for another key of which none is free: it reads all that wait for the key. None if nothing
    waits.
    """
    parameters: dict[str, object] = {"workspace_id": workspace_id, "key": key}
    statement = _FIRST_OF_ALL
    if without:
        statement, parameters["without"] = _FIRST_OF_OTHERS, list(without)
    row = connection.execute(statement, parameters).first()
    return None if row is None else (row.run_id, row.full)


_FULL = text(f"""
SELECT w.key FROM run_limits w
WHERE w.run_id = :run_id AND w.state = 'waiting' AND (
    SELECT count(*) FROM (
        SELECT FROM run_limits u
        WHERE u.workspace_id = w.workspace_id AND u.key = w.key AND u.state = 'held'
        LIMIT {_NOW_OF_W}) AS held) >= {_NOW_OF_W}
ORDER BY w.key
""")


def full(connection: Connection, run_id: UUID) -> list[str]:
    """Return the keys, locked, for which a run waits and of which no slot is free."""
    return list(connection.execute(_FULL, {"run_id": run_id}).scalars())


_SET_STATE = text("""
UPDATE run_limits
SET state = :after, since = now(), place = coalesce(CAST(:place AS smallint), place)
WHERE run_id = :run_id AND state = :before
  AND (CAST(:count AS text) IS NULL OR count = :count)
RETURNING key
""")


def _set(
    connection: Connection,
    run_id: UUID,
    before: SlotState,
    after: SlotState,
    *,
    place: int | None = None,
    count: LimitCount | None = None,
) -> list[str]:
    parameters = {
        "run_id": run_id,
        "before": before.value,
        "after": after.value,
        "place": place,
        "count": None if count is None else count.value,
    }
    return sorted(connection.execute(_SET_STATE, parameters).scalars())


def hold(connection: Connection, run_id: UUID) -> list[str]:
    """Give a locked run the slots that it waits for, of locked keys; return the keys."""
    return _set(connection, run_id, SlotState.WAITING, SlotState.HELD)


def give_back(connection: Connection, run_id: UUID) -> list[str]:
    """Give back the slots of a locked run that only waits; return their keys.

    It keeps those of limits that count what waits.
    """
    return _set(connection, run_id, SlotState.HELD, SlotState.GIVEN_BACK, count=LimitCount.RUNNING)


def want_back(connection: Connection, run_id: UUID) -> list[str]:
    """Let a locked run wait, before all that have not begun, for what it gave back."""
    return _set(connection, run_id, SlotState.GIVEN_BACK, SlotState.WAITING, place=_PLACE_TO_GO_ON)


_USERS = text(f"""
SELECT u.run_id, u.state = 'held', u.policy, {NOW.format(l="u")}, r.status <> 'pending',
       r.cancel_requested_at IS NULL AND r.status <> 'compensating'
FROM (
    (SELECT * FROM run_limits
     WHERE workspace_id = :workspace_id AND key = :key AND state = 'held'
     ORDER BY run_id LIMIT :limit)
    UNION ALL
    (SELECT * FROM run_limits
     WHERE workspace_id = :workspace_id AND key = :key AND state = 'waiting'
     ORDER BY place, run_id LIMIT :limit)) AS u
JOIN workflow_runs r ON r.id = u.run_id
ORDER BY u.state, u.place, u.run_id
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
    held = sorted((each for each in found if each.has_slot), key=_age)
    return held, [each for each in found if not each.has_slot]


def _age(user: SlotUser) -> UUID:
    return user.id


_HAS_POLICIES = text("""
SELECT EXISTS (
    SELECT FROM run_limits
    WHERE workspace_id = :workspace_id AND key = :key AND state = 'waiting' AND policy <> 'queue')
""")


def has_policies(connection: Connection, workspace_id: UUID, key: str) -> bool:
    """Whether not all runs that wait for a key just wait for their turn."""
    parameters = {"workspace_id": workspace_id, "key": key}
    return bool(connection.execute(_HAS_POLICIES, parameters).scalar_one())


_LINES = text("""
WITH RECURSIVE line (workspace_id, key, no) AS (
    (SELECT workspace_id, key, 1 FROM run_limits
     WHERE state = 'waiting' AND (workspace_id, key) > (:workspace_id, :key)
     ORDER BY workspace_id, key LIMIT 1)
    UNION ALL
    SELECT next.workspace_id, next.key, line.no + 1
    FROM line, LATERAL (
        SELECT workspace_id, key FROM run_limits l
        WHERE l.state = 'waiting' AND (l.workspace_id, l.key) > (line.workspace_id, line.key)
        ORDER BY l.workspace_id, l.key LIMIT 1) AS next
    WHERE line.no < :limit
)
SELECT line.workspace_id, line.key, EXISTS (
    SELECT FROM run_limits p
    WHERE p.workspace_id = line.workspace_id AND p.key = line.key
      AND p.state = 'waiting' AND p.policy <> 'queue') AS policies
FROM line ORDER BY line.no
""")


@dataclass(frozen=True, slots=True)
class Line:
    """A key for which runs wait; `policies`: not all of them just wait for their turn."""

    workspace_id: UUID
    key: str
    policies: bool


def lines(connection: Connection, *, after: Line | None, limit: int) -> list[Line]:
    """Return up to `limit` keys for which runs wait, those behind `after`."""
    parameters = {
        "workspace_id": UUID(int=0) if after is None else after.workspace_id,
        "key": "" if after is None else after.key,
        "limit": limit,
    }
    return [Line(*row) for row in connection.execute(_LINES, parameters)]


_SHOWN = text(f"""
SELECT l.key, l.max, l.policy, l.count, l.state, (
    SELECT count(*) FROM (
        SELECT FROM run_limits u
        WHERE u.workspace_id = l.workspace_id AND u.key = l.key AND u.state = 'held'
        LIMIT l.max) AS held) AS used, ARRAY(
    SELECT u.run_id FROM run_limits u
    WHERE u.workspace_id = l.workspace_id AND u.key = l.key AND u.state = 'held'
    ORDER BY u.run_id LIMIT :holders) AS holders, l.limit_id, l.name
FROM (
    SELECT o.key, o.workspace_id, o.policy, o.count, o.state, o.limit_id, of_row.name,
           coalesce(of_row.max, o.max) AS max
    FROM run_limits o {ROW.format(l="o")}
    WHERE o.run_id = :run_id AND (o.limit_id IS NULL OR of_row.id IS NOT NULL)) AS l
ORDER BY l.key
""").bindparams(bindparam("holders", _SHOWN_HOLDERS))
_shown = reader(RunLimit)


def shown(connection: Connection, run_id: UUID) -> list[RunLimit]:
    """Return the limits of a run that has not ended, and who has their slots.

    Those that are deleted are left out.
    """
    return [_shown(row) for row in connection.execute(_SHOWN, {"run_id": run_id})]
