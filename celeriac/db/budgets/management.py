"""Budgets as people set, raise and remove them."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.budgets.windows import USE, WINDOW_KEY, state_of
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, BudgetState, StoredBudget
from celeriac.kit.ids import uuid7

_STATE_COLUMNS = 12

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


_DELETE = text("""
WITH gone AS (DELETE FROM budgets WHERE id = :id RETURNING id)
DELETE FROM budget_windows w USING gone WHERE w.budget_id = gone.id
""")


def delete(connection: Connection, budget_id: UUID) -> None:
    """Delete a budget and its windows."""
    connection.execute(_DELETE, {"id": budget_id})


_FIND = text(f"""
SELECT b.id, b.scope, b.subject_id, {WINDOW_KEY}, b.on_budget,
       b.max_cost + coalesce(w.extra_cost, 0), b.max_tokens + coalesce(w.extra_tokens, 0),
       {USE},
       coalesce(t.name, u.name, s.name) AS subject_name, b.workspace_id, b.owner_id, b.period,
       b.max_cost, b.max_tokens, b.created_at, b.updated_at
FROM budgets b
LEFT JOIN tasks t ON b.scope = 'task' AND t.id = b.subject_id
LEFT JOIN users u ON b.scope = 'user' AND u.id = b.subject_id
LEFT JOIN workspaces s ON b.scope = 'workspace' AND s.id = b.subject_id
LEFT JOIN budget_windows w ON w.budget_id = b.id AND w.window_key = {WINDOW_KEY}
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
    state = state_of(row[:_STATE_COLUMNS])
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
