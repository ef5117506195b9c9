"""Budgets: as they are set, and what is reserved and spent of them (docs/adr/0008-budgets.md).

Every statement locks windows in the order of their keys, so that two never deadlock. A missing
window starts with what was used since its beginning, by the totals of usage: a call is in the
totals of the day whose windows it was charged to; replayed calls count in no window. Every
statement that charges has an id as its key: repeated, it charges nothing.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.domain.budgets import Budget, BudgetState, StoredBudget
from celeriac.domain.executions.model import Lease
from celeriac.kit.ids import uuid7

_KEPT_SECONDS = 600.0
"""How long a reservation is kept after its release: far longer than anybody tries to settle it."""

_STATE_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class ChargeScope:
    """Whose budgets a call is charged to: an execution's, its task's, user's and workspace's."""

    execution_id: UUID | None
    task_id: UUID | None
    owner_id: UUID | None
    workspace_id: UUID | None
    own: Budget | None

    @classmethod
    def of_subject(cls, subject_id: UUID) -> Self:
        """Return the scope of the budgets of one task, one user or one workspace."""
        return cls(None, subject_id, None, None, None)

    def parameters(self) -> dict[str, object]:
        """Return the parameters of `_APPLYING`."""
        own = self.own
        return {
            "execution_id": self.execution_id,
            "task_id": self.task_id,
            "owner_id": self.owner_id,
            "workspace_id": self.workspace_id,
            "own_cost": own.max_cost if own else None,
            "own_tokens": own.max_tokens if own else None,
            "own_on_budget": own.on_budget if own else None,
        }


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


_WINDOW_KEY = """to_char(now() AT TIME ZONE 'UTC',
                   CASE b.period WHEN 'day' THEN 'YYYY-MM-DD' ELSE 'YYYY-MM' END)"""

_APPLYING = f"""
WITH applying AS (
    SELECT b.id, b.scope, b.subject_id, b.max_cost, b.max_tokens, b.on_budget,
           {_WINDOW_KEY} AS window_key,
           CAST(date_trunc(b.period, now() AT TIME ZONE 'UTC') AS date) AS since
    FROM budgets b
    WHERE b.subject_id IN (CAST(:owner_id AS uuid), CAST(:task_id AS uuid),
                           CAST(:workspace_id AS uuid))
    UNION ALL
    SELECT CAST(:execution_id AS uuid), 'execution', CAST(:execution_id AS uuid),
           CAST(:own_cost AS numeric), CAST(:own_tokens AS bigint), CAST(:own_on_budget AS text),
           'run', NULL
    WHERE CAST(:own_on_budget AS text) IS NOT NULL
)"""

_LOCKED = """, state AS MATERIALIZED (
    SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
           a.max_cost + w.extra_cost AS max_cost, a.max_tokens + w.extra_tokens AS max_tokens,
           w.spent_cost, w.spent_tokens, w.reserved_cost, w.reserved_tokens, w.raised
    FROM applying a
    JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
    ORDER BY w.budget_id, w.window_key
    FOR UPDATE OF w
)"""

_RESERVE = text(f"""{_APPLYING}{_LOCKED}
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


_SPEND = text(f"""{_APPLYING}{_LOCKED}
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
    states = tuple(_state(tuple(row)[4:]) for row in rows if row[4] is not None)
    return ReservationResult(fits and held, held, day, states)


_BEGIN_WINDOWS = text(f"""{_APPLYING}
INSERT INTO budget_windows (budget_id, window_key, spent_cost, spent_tokens)
SELECT a.id, a.window_key, coalesce(sum(u.cost), 0), coalesce(sum(u.tokens), 0)
FROM applying a
LEFT JOIN LATERAL (
    SELECT d.cost, d.input_tokens + d.output_tokens AS tokens FROM usage_entries d
    WHERE a.scope = 'user' AND d.owner_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
    UNION ALL
    SELECT d.cost, d.input_tokens + d.output_tokens FROM usage_entries d
    WHERE a.scope = 'task' AND d.task_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
    UNION ALL
    SELECT d.cost, d.input_tokens + d.output_tokens FROM usage_entries d
    WHERE a.scope = 'workspace' AND d.workspace_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
) u ON true
GROUP BY a.id, a.window_key
ORDER BY a.id, a.window_key
ON CONFLICT DO NOTHING
""")


def begin_windows(connection: Connection, scope: ChargeScope) -> None:
    """Create the current windows of all budgets that apply, with what was used in them so far."""
    connection.execute(_BEGIN_WINDOWS, scope.parameters())


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


_RAISE = text("""
UPDATE budget_windows
SET extra_cost = extra_cost + :cost, extra_tokens = extra_tokens + :tokens, raised = raised + 1
WHERE budget_id = :budget_id AND window_key = :window AND raised = :raised
RETURNING budget_id
""")


def raise_limits(connection: Connection, state: BudgetState, *, cost: Decimal, tokens: int) -> bool:
    """Raise a window's limits; False if they were raised since `state` was read."""
    parameters = {
        "budget_id": state.budget_id,
        "window": state.window,
        "raised": state.raised,
        "cost": cost,
        "tokens": tokens,
    }
    return bool(connection.execute(_RAISE, parameters).all())


_SUBJECTS = text("SELECT DISTINCT subject_id FROM budgets")


def subjects(connection: Connection) -> frozenset[UUID]:
    """Return the ids of all tasks, users and workspaces that have budgets."""
    return frozenset(connection.execute(_SUBJECTS).scalars())


_USE = """coalesce(w.spent_cost, 0), coalesce(w.spent_tokens, 0), coalesce(w.reserved_cost, 0),
       coalesce(w.reserved_tokens, 0), coalesce(w.raised, 0)"""

_STATES = text(f"""{_APPLYING}
SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
       a.max_cost + coalesce(w.extra_cost, 0), a.max_tokens + coalesce(w.extra_tokens, 0),
       {_USE}
FROM applying a
LEFT JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
ORDER BY a.scope, a.window_key
""")


def states(connection: Connection, scope: ChargeScope) -> list[BudgetState]:
    """Return the states of all budgets in `scope`."""
    return [_state(row) for row in connection.execute(_STATES, scope.parameters())]


_SET = text("""
INSERT INTO budgets AS b (id, scope, subject_id, workspace_id, owner_id, period, max_cost,
                          max_tokens, on_budget)
VALUES (:id, :scope, :subject_id, :workspace_id, :owner_id, :period, :max_cost, :max_tokens,
        :on_budget)
ON CONFLICT (subject_id, period) DO UPDATE
SET max_cost = excluded.max_cost, max_tokens = excluded.max_tokens,
    on_budget = excluded.on_budget, updated_at = now()
RETURNING b.id
""")


def put(
    connection: Connection,
    *,
    scope: BudgetScope,
    subject_id: UUID,
    workspace_id: UUID,
    owner_id: UUID,
    period: Period,
    budget: Budget,
) -> UUID:
    """Set the budget of a task, a user or a workspace for a period, replacing an earlier one."""
    parameters = {
        "id": uuid7(),
        "scope": scope,
        "subject_id": subject_id,
        "workspace_id": workspace_id,
        "owner_id": owner_id,
        "period": period,
        **dict(budget),
    }
    found: UUID = connection.execute(_SET, parameters).scalar_one()
    return found


_REMOVE = text("""
WITH gone AS (DELETE FROM budgets WHERE id = :id RETURNING id)
DELETE FROM budget_windows w USING gone WHERE w.budget_id = gone.id
""")


def remove(connection: Connection, budget_id: UUID) -> None:
    """Delete a budget and its windows."""
    connection.execute(_REMOVE, {"id": budget_id})


_FIND = text(f"""
SELECT b.id, b.scope, b.subject_id, {_WINDOW_KEY}, b.on_budget,
       b.max_cost + coalesce(w.extra_cost, 0), b.max_tokens + coalesce(w.extra_tokens, 0),
       {_USE},
       coalesce(t.name, u.name, s.name) AS subject_name, b.workspace_id, b.owner_id, b.period,
       b.max_cost, b.max_tokens, b.created_at, b.updated_at
FROM budgets b
LEFT JOIN tasks t ON b.scope = 'task' AND t.id = b.subject_id
LEFT JOIN users u ON b.scope = 'user' AND u.id = b.subject_id
LEFT JOIN workspaces s ON b.scope = 'workspace' AND s.id = b.subject_id
LEFT JOIN budget_windows w ON w.budget_id = b.id AND w.window_key = {_WINDOW_KEY}
WHERE (CAST(:workspace_id AS uuid) IS NULL OR b.workspace_id = :workspace_id
       OR :limits AND b.scope IN ('user', 'workspace'))
  AND (CAST(:id AS uuid) IS NULL OR b.id = :id)
  AND (CAST(:subject_id AS uuid) IS NULL OR b.subject_id = :subject_id)
  AND (CAST(:before AS uuid) IS NULL OR b.id < :before)
ORDER BY b.id DESC
LIMIT :limit
""")


def get(
    connection: Connection, budget_id: UUID, *, workspace: UUID | None, limits: bool = False
) -> StoredBudget | None:
    """Return a budget that `find` would return, or None."""
    found = _find(connection, workspace_id=workspace, limits=limits, id=budget_id, limit=1)
    return found[0] if found else None


def find(
    connection: Connection,
    *,
    workspace: UUID | None,
    limits: bool = False,
    subject_id: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[StoredBudget]:
    """Return up to `limit` budgets older than `before`, the newest first.

    Those of `workspace` (None: of all); with `limits` also those of all users and workspaces.
    """
    return _find(
        connection,
        workspace_id=workspace,
        limits=limits,
        subject_id=subject_id,
        before=before,
        limit=limit,
    )


def _find(connection: Connection, **wanted: object) -> list[StoredBudget]:
    parameters = {"id": None, "subject_id": None, "before": None, **wanted}
    return [_stored(tuple(row)) for row in connection.execute(_FIND, parameters)]


def _stored(row: tuple[Any, ...]) -> StoredBudget:
    state = _state(row[:_STATE_COLUMNS])
    name, workspace_id, owner_id, period, *limits, created_at, updated_at = row[_STATE_COLUMNS:]
    max_cost, max_tokens = limits
    return StoredBudget(
        id=state.budget_id,
        scope=state.scope,
        subject_id=state.subject_id,
        subject_name=name,
        workspace_id=workspace_id,
        owner_id=owner_id,
        period=Period(period),
        budget=Budget(max_cost=max_cost, max_tokens=max_tokens, on_budget=state.on_budget),
        created_at=created_at,
        updated_at=updated_at,
        state=state,
    )


def _state(row: Any) -> BudgetState:
    """Return the state of a budget from the columns of `BudgetState` in their order."""
    budget_id, scope, subject_id, window, on_budget, *numbers = row
    return BudgetState(
        budget_id, BudgetScope(scope), subject_id, window, OnBudget(on_budget), *numbers
    )
