"""What is reserved and spent of budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.budgets import statements
from celeriac.domain.budget_kinds import BudgetScope, OnBudget
from celeriac.domain.budgets import Budget, BudgetState
from celeriac.domain.executions.model import Lease

_KEPT_SECONDS = 600.0
"""How long a reservation outlasts its release: far longer than anybody tries to settle it."""


@dataclass(frozen=True, slots=True)
class ChargeScope:
    """Who pays for a call: an execution with the budget it has of its own, its task, its user."""

    execution_id: UUID | None
    task_id: UUID | None
    owner_id: UUID | None
    own: Budget | None

    @classmethod
    def of_subject(cls, subject_id: UUID) -> Self:
        """Return one that has the budgets of a task, or of a user, alone."""
        return cls(None, subject_id, None, None)


@dataclass(frozen=True, slots=True)
class ReservationResult:
    """What came of an attempt to reserve, or to spend, and how the budgets stand.

    `complete` is False where a budget's window hasn't begun: nothing was done. `held` is False
    where the lease is lost. `admitted` with no standings: no budget applies. `day` (UTC) is that of
    the windows.
    """

    complete: bool
    admitted: bool
    held: bool
    day: date
    standings: tuple[BudgetState, ...]


def reserve(
    connection: Connection,
    lease: Lease,
    payer: ChargeScope,
    *,
    ticket: UUID,
    cost: Decimal | None,
    tokens: int,
    least_cost: Decimal = Decimal(0),
    least_tokens: int = 0,
) -> ReservationResult:
    """Reserve for a call in all budgets that apply, or in none; one statement.

    A call is admitted where each budget has something left and either holds it, with all that is
    spent and reserved, or has no other call under way. The least that it needs must fit in what is
    not spent. `cost` is None where no price is known, which no budget of money admits. Repeated
    with the same `ticket` it reserves once; the standings are without its own reservation.
    """
    parameters = {
        **payer_columns(payer),
        "attempt": lease.attempt,
        "token": lease.token,
        "ticket": ticket,
        "cost": cost,
        "tokens": tokens,
        "least_cost": least_cost,
        "least_tokens": least_tokens,
    }
    return _reserving(connection.execute(statements.RESERVE, parameters).all())


def spend(
    connection: Connection,
    payer: ChargeScope,
    *,
    ticket: UUID,
    attempt: int,
    cost: Decimal,
    tokens: int,
) -> ReservationResult:
    """Add what a call used that nothing was reserved for; returns how the budgets stand then.

    Repeated with the same `ticket` within ten minutes it adds it once.
    """
    parameters = {
        **payer_columns(payer),
        "ticket": ticket,
        "attempt": attempt,
        "cost": cost,
        "tokens": tokens,
    }
    return _reserving(connection.execute(statements.SPEND, parameters).all())


def begin_windows(connection: Connection, payer: ChargeScope) -> None:
    """Begin the present windows of all budgets that apply, with what was used in them so far."""
    connection.execute(statements.BEGIN_WINDOWS, payer_columns(payer))


def subjects(connection: Connection) -> frozenset[UUID]:
    """Return the ids of all tasks and users that have budgets."""
    return frozenset(connection.execute(statements.SUBJECTS).scalars())


def settle(connection: Connection, ticket: UUID, *, cost: Decimal, tokens: int) -> bool:
    """Put what a call used in the place of its reservation; False where there is none any more.

    One that the keeper has released meanwhile is settled all the same, for ten minutes.
    """
    parameters = {"ticket": ticket, "cost": cost, "tokens": tokens}
    return bool(connection.execute(statements.SETTLE, parameters).all())


def release_leaked(connection: Connection, *, limit: int) -> int:
    """Release up to `limit` reservations of attempts that don't run any more.

    Returns in how many windows. What such a call has used is not known: nothing is spent.
    """
    parameters = {"limit": limit, "cost": Decimal(0), "tokens": 0, "kept_seconds": _KEPT_SECONDS}
    return len(connection.execute(statements.RELEASE, parameters).all())


def raise_limits(
    connection: Connection, standing: BudgetState, *, cost: Decimal, tokens: int
) -> bool:
    """Raise a window's limits; False where that was done since `standing` was read."""
    parameters = {
        "budget_id": standing.budget_id,
        "window": standing.window,
        "raised": standing.raised,
        "cost": cost,
        "tokens": tokens,
    }
    return bool(connection.execute(statements.RAISE, parameters).all())


def payer_columns(payer: ChargeScope) -> dict[str, object]:
    """Return what the statements ask of who pays."""
    own = payer.own
    return {
        "execution_id": payer.execution_id,
        "task_id": payer.task_id,
        "owner_id": payer.owner_id,
        "own_cost": own.max_cost if own else None,
        "own_tokens": own.max_tokens if own else None,
        "own_on_budget": own.on_budget if own else None,
    }


def _reserving(rows: Sequence[Any]) -> ReservationResult:
    complete, fits, held, day = rows[0][:4]
    standings = tuple(standing_of(tuple(row)[4:]) for row in rows if row[4] is not None)
    return ReservationResult(complete, complete and fits and held, held, day, standings)


def standing_of(row: Sequence[Any]) -> BudgetState:
    """Return how a budget stands, from the columns of `Standing` in their order."""
    return BudgetState(row[0], BudgetScope(row[1]), row[2], row[3], OnBudget(row[4]), *row[5:])
