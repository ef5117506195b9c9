"""Ends executions without their worker: rescue from a lost worker, cancellation, and expiry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, TextClause

from celeriac.db import spans
from celeriac.db.executions.ended import KEPT, hold, hold_rows
from celeriac.db.executions.guards import with_guards
from celeriac.domain.executions.model import Cause, Lease
from celeriac.domain.executions.states import EXPIRED, Held, Status, Transition
from celeriac.domain.fingerprint import of_code

_HOLDER = """
WITH RECURSIVE holder AS (
    -- the workers of all running executions, with one look at the index for each
    (SELECT worker_id FROM executions
     WHERE status IN ({lose_from}) AND worker_id IS NOT NULL
     ORDER BY worker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT e.worker_id FROM executions e
            WHERE e.status IN ({lose_from}) AND e.worker_id > holder.worker_id
            ORDER BY e.worker_id LIMIT 1)
    FROM holder WHERE holder.worker_id IS NOT NULL
)"""

_LOST = with_guards(
    _HOLDER
    + """, expired AS (
    -- A renewal that is being written has its row: the worker is not lost.
    SELECT id FROM workers
    WHERE id = ANY (ARRAY(SELECT worker_id FROM holder))
      -- or the clock was set back since: the lease would last until it has caught up
      AND (lease_until < now() OR seen_at > now() + make_interval(secs => :ahead))
      AND lost_at IS NULL AND stopped_at IS NULL AND :limit > 0
    FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE workers SET lost_at = now() WHERE id = ANY (ARRAY(SELECT id FROM expired))
    RETURNING id
), lost_worker AS (
    SELECT id FROM marked
    UNION ALL
    SELECT worker_id FROM holder
    WHERE worker_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM workers w
        WHERE w.id = holder.worker_id AND w.lost_at IS NULL)
)
SELECT id FROM executions
WHERE status IN ({lose_from}) AND worker_id = ANY (ARRAY(SELECT id FROM lost_worker))
LIMIT :limit
FOR UPDATE SKIP LOCKED
""",
    lose=Transition.LOSE,
)

_RESCUE = with_guards(
    """
WITH done AS (
    UPDATE executions e
    SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN {stop_to}
                      WHEN crash_count + 1 >= max_crashes THEN {give_up_to}
                      ELSE {lose_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NOT NULL
                              OR crash_count + 1 >= max_crashes THEN now() END,
        error_code = 'worker_lost',
        error_message = format('The worker %s was lost during attempt %s (lost workers: %s).',
                               e.worker_hostname, attempt, crash_count + 1),
        error_type = 'WorkerLostError',
        error_fingerprint = CASE WHEN cancel_requested_at IS NULL AND crash_count + 1 >= max_crashes
                                 THEN {fingerprint} END,
        crash_count = crash_count + 1, lease_token = NULL,
        available_at = now() + make_interval(secs => CAST(power(2, crash_count) AS double precision)
                                                     * :base_delay * (0.5 + random())),
        held = CASE WHEN cancel_requested_at IS NULL AND crash_count + 1 < max_crashes
                    THEN 'time' END,
        event_seq = event_seq + 2
    WHERE {given_e} AND status IN ({lose_from})
    RETURNING {ended_columns}, 'keeper' AS ended_by, NULL::jsonb AS ended_why, e.event_seq,
              e.worker_hostname
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq - 1, 'worker_lost', attempt,
           jsonb_build_object('worker', worker_hostname, 'crash_count', crash_count)
    FROM done
    UNION ALL
    SELECT id, event_seq,
           CASE status WHEN {stop_to} THEN 'cancelled' WHEN {give_up_to} THEN 'failed'
                       ELSE 'retry_scheduled' END,
           attempt, jsonb_build_object('code', 'worker_lost', 'message', error_message)
    FROM done
), produced AS (
    SELECT id, NULL::json AS result,
           jsonb_build_object('type', 'WorkerLostError', 'attempt', attempt, 'traceback', NULL,
                              'worker', worker_hostname) AS error_details
    FROM done
){kept}{ended}
SELECT id, status, attempt, crash_count, worker_hostname, error_message, request_id, owner_id,
       task_id
FROM done
""",
    {
        "kept": KEPT,
        "given_e": spans.given("e.id"),
        "fingerprint": f"'{of_code('worker_lost')}'",
    },
    lose=Transition.LOSE,
    give_up=Transition.GIVE_UP,
    stop=Transition.STOP,
)


@dataclass(frozen=True, slots=True)
class Rescued:
    """An execution that was taken from a lost worker, with its new status."""

    execution_id: UUID
    status: Status
    attempt: int
    crash_count: int
    worker: str | None
    message: str
    cause: Cause


def rescue_lost(
    connection: Connection, *, limit: int, base_delay: float, ahead: float = 60.0
) -> list[Rescued]:
    """Take up to `limit` executions from lost workers.

    A worker is lost if its lease has expired, or if it was seen more than `ahead` seconds in the
    future (the clock was set back): this marks it, and it can never renew the lease. So is one that
    was marked before or has no row. For one that has stopped see `left_behind`. Each execution
    becomes `pending` (after about `base_delay` seconds, doubled with every crash, with jitter),
    `cancelled` if that is requested, or `failed` with `worker_lost` after `max_crashes` lost
    workers. Later writes of the lost worker are refused. With a `limit` of 0 nothing is taken, but
    the statement still fails on a read-only server. An execution whose session or question
    somebody has locked is left for later. Needs a transaction: the first statements mark and lock,
    the last one ends.
    """
    lost = list(connection.execute(_LOST, {"limit": limit, "ahead": ahead}).scalars())
    if lost:
        lost = list(hold_rows(connection, lost))
    rows = connection.execute(_RESCUE, {**spans.of(lost), "base_delay": base_delay})
    return [
        Rescued(row[0], Status(row[1]), row[2], row[3], row[4], row[5], Cause(*row[6:]))
        for row in rows
    ]


_LEFT = with_guards(
    _HOLDER
    + """, stopped AS (
    SELECT id FROM workers
    WHERE id = ANY (ARRAY(SELECT worker_id FROM holder))
      AND stopped_at IS NOT NULL AND lost_at IS NULL
)
SELECT id, attempt, lease_token FROM executions
WHERE status IN ({lose_from}) AND worker_id = ANY (ARRAY(SELECT id FROM stopped))
LIMIT :limit
""",
    lose=Transition.LOSE,
)


def left_behind(connection: Connection, *, limit: int) -> list[Lease]:
    """Return up to `limit` running attempts of workers that have stopped in order.

    They could not hand them back: the row was locked, or a claim was committed during their end.
    """
    return [Lease(*row) for row in connection.execute(_LEFT, {"limit": limit})]


_TO_CANCEL = with_guards(
    """
SELECT id FROM executions
WHERE {given}
  AND (status IN ({cancel_from}) OR status IN ({stop_from}) AND cancel_requested_at IS NULL)
ORDER BY id DESC  -- children before their parents, as the ends of children lock them
FOR UPDATE
""",
    {"given": spans.given("id")},
    cancel=Transition.CANCEL,
    stop=Transition.STOP,
)

_CANCEL = with_guards(
    """
WITH done AS (
    UPDATE executions e
    SET status = CASE WHEN status IN ({cancel_from}) THEN {cancel_to} ELSE status END,
        completed_at = CASE WHEN status IN ({cancel_from}) THEN now() END,
        cancel_requested_at = now(), cancel_requested_by = :by,
        waiting_for = NULL, waiting_until = NULL, held = NULL, event_seq = event_seq + 1
    WHERE {given_e}
      AND (status IN ({cancel_from}) OR status IN ({stop_from}))
    RETURNING {ended_columns}, e.event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {cancel_to} THEN 'cancelled' ELSE 'cancel_requested' END,
           attempt, jsonb_build_object('by', CAST(:by AS text))
    FROM done
), families AS (
    INSERT INTO ended_parents (execution_id)
    SELECT execution_id FROM live_children
    WHERE execution_id = ANY (ARRAY(SELECT id FROM done WHERE status IN ({stop_from})))
      AND shard = 0 AND live > 0
    ON CONFLICT DO NOTHING
){ended}
SELECT id, status FROM done
""",
    {"given_e": spans.given("e.id")},
    cancel=Transition.CANCEL,
    stop=Transition.STOP,
)


def request_cancel(connection: Connection, ids: Sequence[UUID], by: str) -> dict[UUID, Status]:
    """Cancel executions that don't run and mark running ones; return the new status of each.

    Terminal executions and marked ones are skipped. A marked one stays `running` until its worker,
    or else the keeper, ends it. `children.orphans` returns the children of all of them. Needs a
    transaction: the first statement locks, the second ends.
    """
    held = list(connection.execute(_TO_CANCEL, spans.of(ids)).scalars())
    rows = connection.execute(_CANCEL, {**spans.of(held), "by": by})
    return {row[0]: Status(row[1]) for row in rows}


_EXPIRED = with_guards(
    """
SELECT id FROM executions
WHERE expires_at IS NOT NULL AND started_at IS NULL AND completed_at IS NULL
  AND expires_at <= now() AND status IN ({lapse_from})
ORDER BY expires_at
LIMIT :limit
FOR NO KEY UPDATE SKIP LOCKED
""",
    lapse=Transition.LAPSE,
)


def _lapse(condition: str, message: str) -> TextClause:
    """Return a statement that cancels what has not begun, with the code `:code`; both are SQL."""
    return with_guards(
        """
WITH done AS (
    UPDATE executions e
    SET status = {lapse_to}, completed_at = now(), held = NULL, event_seq = event_seq + 1,
        error_code = :code, error_message = {message}
    WHERE {given_e} AND status IN ({lapse_from}) AND started_at IS NULL AND {condition}
    RETURNING {ended_columns}, e.event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'cancelled', attempt,
           jsonb_build_object('code', error_code, 'message', error_message)
    FROM done
){ended}
SELECT id FROM done
""",
        {"given_e": spans.given("e.id"), "condition": condition, "message": message},
        lapse=Transition.LAPSE,
    )


_LAPSE = _lapse(
    "expires_at <= now()",
    """format('It had not begun by %s, its expires_at.',
               to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))""",
)


def end_expired(connection: Connection, *, limit: int) -> list[UUID]:
    """Cancel executions that have not begun by their `expires_at`, up to `limit`; return which.

    Their error code is `expired`. One whose row, or session, somebody has locked is left for later.
    Needs a transaction: the first statements lock, the last one ends.
    """
    found = list(connection.execute(_EXPIRED, {"limit": limit}).scalars())
    if found:
        found = list(hold_rows(connection, found))
    if not found:
        return []
    return list(connection.execute(_LAPSE, {**spans.of(found), "code": EXPIRED}).scalars())


_CROWD_OUT = _lapse(
    "held = CAST(:held AS text)",
    """(SELECT m.message
        FROM unnest(CAST(:crowded AS uuid[]), CAST(:messages AS text[])) AS m (id, message)
        WHERE m.id = e.id)""",
)
_CROWDED_AT_ONCE = 200
"""Each of these looks for its message among those of all."""


def crowd_out(
    connection: Connection, messages: Mapping[UUID, str], *, held: Held, code: str
) -> list[UUID]:
    """Cancel executions that have not begun and are `held` in this way; return which.

    Each gets its message. Needs a transaction.
    """
    gone: list[UUID] = []
    ids = list(messages)
    for start in range(0, len(ids), _CROWDED_AT_ONCE):
        some = ids[start : start + _CROWDED_AT_ONCE]
        locked = list(hold_rows(connection, list(hold(connection, some, skip_locked=True))))
        if locked:
            parameters = {
                **spans.of(locked),
                "held": held,
                "code": code,
                "crowded": locked,
                "messages": [messages[each] for each in locked],
            }
            gone += connection.execute(_CROWD_OUT, parameters).scalars()
    return gone
