"""Budgets of tasks and users, as they are set."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.budgets import statements
from celeriac.db.budgets.reserving import ChargeScope, payer_columns, standing_of
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, BudgetState, StoredBudget
from celeriac.kit.ids import uuid7

_STANDING_COLUMNS = 12


def put(
    connection: Connection,
    *,
    scope: BudgetScope,
    subject_id: UUID,
    owner_id: UUID,
    period: Period,
    budget: Budget,
) -> UUID:
    """Set the budget of a task or a user for a period, in the place of an earlier one."""
    parameters = {
        "id": uuid7(),
        "scope": scope,
        "subject_id": subject_id,
        "owner_id": owner_id,
        "period": period,
        "max_cost": budget.max_cost,
        "max_tokens": budget.max_tokens,
        "on_budget": budget.on_budget,
    }
    found: UUID = connection.execute(statements.SET, parameters).scalar_one()
    return found


def remove(connection: Connection, budget_id: UUID) -> None:
    """Forget a budget and what was spent of it."""
    connection.execute(statements.REMOVE, {"id": budget_id})


def get(connection: Connection, budget_id: UUID, *, owner: UUID | None) -> StoredBudget | None:
    """Return a budget, or None where there is none or it isn't `owner`'s (None: anybody's)."""
    found = _find(connection, owner_id=owner, id=budget_id, limit=1)
    return found[0] if found else None


def find(
    connection: Connection,
    *,
    owner: UUID | None,
    subject_id: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[StoredBudget]:
    """Return up to `limit` budgets older than `before`, the newest first."""
    return _find(connection, owner_id=owner, subject_id=subject_id, before=before, limit=limit)


def standings(connection: Connection, payer: ChargeScope) -> list[BudgetState]:
    """Return how all budgets stand that apply to an execution."""
    rows = connection.execute(statements.STANDINGS, payer_columns(payer))
    return [standing_of(tuple(row)) for row in rows]


def _find(connection: Connection, **wanted: Any) -> list[StoredBudget]:
    parameters = {"owner_id": None, "id": None, "subject_id": None, "before": None, **wanted}
    return [_stored(tuple(row)) for row in connection.execute(statements.FIND, parameters)]


def _stored(row: tuple[Any, ...]) -> StoredBudget:
    standing = standing_of(row[:_STANDING_COLUMNS])
    name, owner_id, period, max_cost, max_tokens, created_at, updated_at = row[_STANDING_COLUMNS:]
    return StoredBudget(
        id=standing.budget_id,
        scope=standing.scope,
        subject_id=standing.subject_id,
        subject_name=name,
        owner_id=owner_id,
        period=Period(period),
        budget=Budget(max_cost=max_cost, max_tokens=max_tokens, on_budget=standing.on_budget),
        created_at=created_at,
        updated_at=updated_at,
        standing=standing,
    )
