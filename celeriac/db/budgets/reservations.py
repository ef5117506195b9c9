"""What model calls reserve and spend of budgets.

Every statement that charges has an id as its key: repeated, it charges nothing.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from celeriac.db.budgets.windows import APPLYING, ChargeScope, begin_windows, state_of
from celeriac.domain.budgets import BudgetState
from celeriac.domain.executions.model import Lease

_KEPT_SECONDS = 600.0
"""How long a reservation is kept after its release: far longer than anybody tries to settle it."""


@dataclass(frozen=True, slots=True)
class ReservationResult:
    """Whether a call was reserved, and the budgets that apply.

    `held` is False if the lease is lost. `admitted` with no states: no budget applies. `day` is
    that of the windows (UTC).
    """

    admitted: bool
    held: bool
    day: date
    states: tuple[BudgetState, ...]


_LOCKED = """, state AS MATERIALIZED (
    SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
           a.max_cost + w.extra_cost AS max_cost, a.max_tokens + w.extra_tokens AS max_tokens,
           w.spent_cost, w.spent_tokens, w.reserved_cost, w.reserved_tokens, w.raised
    FROM applying a
    JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
    ORDER BY w.budget_id, w.window_key
    FOR UPDATE OF w
)"""

_RESERVE = text(f"""{APPLYING}{_LOCKED}
, verdict AS (
    SELECT count(*) = (SELECT count(*) FROM applying) AS complete,
           coalesce(bool_and(
               -- something is left,
               (s.max_cost IS NULL OR s.spent_cost < s.max_cost)
               AND (s.max_tokens IS NULL OR s.spent_tokens < s.max_tokens)
               -- the least that the call needs fits,
               AND (s.max_cost IS NULL
                    OR s.spent_cost + CAST(:least_cost AS numeric) <= s.max_cost)
               AND (s.max_tokens IS NULL OR s.spent_tokens + :least_tokens <= s.max_tokens)
               -- the price is known if the cost is limited,
               AND (s.max_cost IS NULL OR CAST(:cost AS numeric) IS NOT NULL)
               -- and the call fits, or is the only one in progress
               AND (s.reserved_tokens = 0 AND s.reserved_cost = 0
                    OR (s.max_cost IS NULL
                        OR s.spent_cost + s.reserved_cost + CAST(:cost AS numeric) <= s.max_cost)
                       AND (s.max_tokens IS NULL
                            OR s.spent_tokens + s.reserved_tokens + :tokens <= s.max_tokens))
           ), true) AS fits,
           -- set if an earlier try reserved and its answer was lost
           (SELECT max(r.created_at) FROM budget_reservations r
            WHERE r.id = :reservation_id) AS known_at
    FROM state s
), holder AS (
    SELECT e.id FROM executions e
    WHERE e.id = :execution_id AND e.attempt = :attempt AND e.lease_token = :token
      AND e.status = 'running'
), noted AS (
    INSERT INTO budget_reservations (id, budget_id, window_key, execution_id, attempt, cost, tokens)
    SELECT :reservation_id, s.id, s.window_key, :execution_id, :attempt,
           coalesce(CAST(:cost AS numeric), 0), :tokens
    FROM state s, verdict v, holder
    WHERE v.complete AND v.fits AND v.known_at IS NULL
    ON CONFLICT DO NOTHING
    RETURNING budget_id, window_key, cost, tokens
), taken AS (
    UPDATE budget_windows w
    SET reserved_cost = w.reserved_cost + n.cost, reserved_tokens = w.reserved_tokens + n.tokens
    FROM noted n
    WHERE w.budget_id = n.budget_id AND w.window_key = n.window_key
)
SELECT v.complete, v.fits OR v.known_at IS NOT NULL, EXISTS (SELECT FROM holder),
       CAST(coalesce(v.known_at, now()) AT TIME ZONE 'UTC' AS date), s.id, s.scope, s.subject_id,
       s.window_key, s.on_budget, s.max_cost, s.max_tokens, s.spent_cost, s.spent_tokens,
       -- without what an earlier try reserved if its answer was lost
       s.reserved_cost - coalesce(k.cost, 0), s.reserved_tokens - coalesce(k.tokens, 0), s.raised
FROM verdict v LEFT JOIN state s ON true
LEFT JOIN budget_reservations k
    ON k.id = :reservation_id AND k.budget_id = s.id AND k.window_key = s.window_key
""")


def reserve(
    connection: Connection,
    lease: Lease,
    scope: ChargeScope,
    *,
    reservation_id: UUID,
    cost: Decimal | None,
    tokens: int,
    least_cost: Decimal = Decimal(0),
    least_tokens: int = 0,
) -> ReservationResult:
    """Reserve a call in all budgets that apply, or in none. Needs autocommit.

    A call is admitted if each budget has something left and either has room for it beside all that
    is spent and reserved, or has no other call in progress. The least that the call needs must fit
    into what is not spent. `cost` is None if no price is known; no cost limit admits that.
    Repeatable: the states are without the call's own reservation.
    """
    parameters = {
        "attempt": lease.attempt,
        "token": lease.token,
        "reservation_id": reservation_id,
        "cost": cost,
        "tokens": tokens,
        "least_cost": least_cost,
        "least_tokens": least_tokens,
    }
    return _in_windows(connection, _RESERVE, scope, parameters)


_SPEND = text(f"""{APPLYING}{_LOCKED}
, verdict AS (
    SELECT count(*) = (SELECT count(*) FROM applying) AS complete FROM state
), noted AS (
    -- reserves nothing: makes a repeated try recognisable
    INSERT INTO budget_reservations (id, budget_id, window_key, execution_id, attempt, cost, tokens,
                                     released_at)
    SELECT :reservation_id, s.id, s.window_key, :execution_id, :attempt, 0, 0, now()
    FROM state s, verdict v
    WHERE v.complete
    ON CONFLICT DO NOTHING
    RETURNING budget_id, window_key
), added AS (
    UPDATE budget_windows w
    SET spent_cost = w.spent_cost + :cost, spent_tokens = w.spent_tokens + :tokens
    FROM noted n
    WHERE w.budget_id = n.budget_id AND w.window_key = n.window_key
)
SELECT v.complete, true, true, CAST(now() AT TIME ZONE 'UTC' AS date), s.id, s.scope, s.subject_id,
       s.window_key, s.on_budget, s.max_cost, s.max_tokens,
       s.spent_cost + CASE WHEN n.budget_id IS NULL THEN 0 ELSE :cost END,
       s.spent_tokens + CASE WHEN n.budget_id IS NULL THEN 0 ELSE :tokens END,
       s.reserved_cost, s.reserved_tokens, s.raised
FROM verdict v LEFT JOIN state s ON true LEFT JOIN noted n ON n.budget_id = s.id
""")


def spend(
    connection: Connection,
    scope: ChargeScope,
    *,
    charge_id: UUID,
    attempt: int,
    cost: Decimal,
    tokens: int,
) -> ReservationResult:
    """Charge a call without a reservation; return the states after it. Needs autocommit.

    Repeated with the same `charge_id` within ten minutes it charges once.
    """
    parameters = {
        "reservation_id": charge_id, "attempt": attempt, "cost": cost, "tokens": tokens
    }  # fmt: skip
    return _in_windows(connection, _SPEND, scope, parameters)


def _in_windows(
    connection: Connection, statement: TextClause, scope: ChargeScope, parameters: dict[str, object]
) -> ReservationResult:
    """Execute `statement`; begin missing windows first, as at each day's first call."""
    parameters |= scope.parameters()
    while True:
        rows = connection.execute(statement, parameters).all()
        complete, fits, held, day = rows[0][:4]
        if complete:
            break
        begin_windows(connection, scope)
    states = tuple(state_of(tuple(row)[4:]) for row in rows if row[4] is not None)
    return ReservationResult(fits and held, held, day, states)


_MOVED = """
, locked AS MATERIALIZED (
    SELECT w.budget_id, w.window_key, g.cost, g.tokens
    FROM budget_windows w JOIN gone g USING (budget_id, window_key)
    ORDER BY w.budget_id, w.window_key
    FOR UPDATE OF w
)
UPDATE budget_windows w
SET reserved_cost = w.reserved_cost - l.cost, reserved_tokens = w.reserved_tokens - l.tokens,
    spent_cost = w.spent_cost + :cost, spent_tokens = w.spent_tokens + :tokens
FROM locked l
WHERE w.budget_id = l.budget_id AND w.window_key = l.window_key
RETURNING w.budget_id
"""

_SETTLE = text(f"""
WITH gone AS (
    DELETE FROM budget_reservations WHERE id = :reservation_id
    RETURNING budget_id, window_key, cost, tokens
){_MOVED}""")


def settle(connection: Connection, reservation_id: UUID, *, cost: Decimal, tokens: int) -> bool:
    """Replace a reservation by what the call used; False if there is none.

    Also settles one that the keeper released less than ten minutes ago.
    """
    parameters = {"reservation_id": reservation_id, "cost": cost, "tokens": tokens}
    return bool(connection.execute(_SETTLE, parameters).all())


_RELEASE = text(f"""
WITH forgotten AS (
    DELETE FROM budget_reservations
    WHERE released_at < now() - make_interval(secs => :kept_seconds)
), leaked AS (
    SELECT r.id, r.budget_id, r.cost, r.tokens FROM budget_reservations r
    WHERE r.released_at IS NULL AND NOT EXISTS (
        SELECT FROM executions e
        WHERE e.id = r.execution_id AND e.attempt = r.attempt AND e.status = 'running'
    )
    ORDER BY r.id
    LIMIT :limit
    FOR UPDATE OF r SKIP LOCKED
), taken AS (
    -- kept for a while to recognise a late settlement
    UPDATE budget_reservations r SET released_at = now(), cost = 0, tokens = 0
    FROM leaked l
    WHERE r.id = l.id AND r.budget_id = l.budget_id
    RETURNING r.budget_id, r.window_key, l.cost, l.tokens
), gone AS (
    SELECT budget_id, window_key, sum(cost) AS cost, sum(tokens) AS tokens FROM taken
    GROUP BY budget_id, window_key
){_MOVED}""")


def release_leaked(connection: Connection, *, limit: int) -> int:
    """Release up to `limit` reservations of attempts that no longer run; return how many windows.

    What such a call used is unknown: nothing is charged.
    """
    parameters = {"limit": limit, "cost": Decimal(0), "tokens": 0, "kept_seconds": _KEPT_SECONDS}
    return len(connection.execute(_RELEASE, parameters).all())
