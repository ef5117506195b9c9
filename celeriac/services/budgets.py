"""Budgets as people set them: those of tasks by their owners, those of users by admins."""

from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import accounts, audit, budgets, executions, tasks
from celeriac.db.budgets import Payer
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.budget import Budget, BudgetScope, Period, Standing, StoredBudget
from celeriac.domain.errors import NotFoundError
from celeriac.domain.paging import Page, read_cursor
from celeriac.services.budget_answers import answer_all
from celeriac.services.plans import Plans
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

_KIND = "budgets"


class Budgets:
    """The budgets of tasks and users. Safe to share between threads."""

    def __init__(self, database: Database, plans: Plans, live: LiveEvents) -> None:
        """Work on `database`; the budget of a single execution is in its plan."""
        self._database = database
        self._plans = plans
        self._live = live

    def put(
        self, actor: Actor, scope: BudgetScope, subject_id: UUID, period: Period, budget: Budget
    ) -> StoredBudget:
        """Set the budget of a task or a user for a period, in the place of an earlier one.

        What was used since the period began counts. Executions that ask for more of it go on, and
        are held by the new limits. Raises ForbiddenError: a user's budget is an
        admin's to set; NotFoundError.
        """
        actor.require(Role.ADMIN if scope is BudgetScope.USER else Role.OPERATOR)
        with self._database.transaction() as connection:
            budget_id = put_budget(
                connection,
                actor,
                scope=scope,
                subject_id=subject_id,
                period=period,
                budget=budget,
            )
            found = _found(connection, actor, budget_id)
        self.was_put(actor, budget_id)
        return found

    def was_put(self, actor: Actor, budget_id: UUID) -> None:
        """Let executions go on that ask for more of a budget, once its new limits are stored."""
        note = "The budget was changed."
        key_prefix = f"budget:{budget_id}:"
        self._live.changed(answer_all(self._database, key_prefix, by=actor.name, note=note))
        logger.info("budget.set", budget_id=budget_id)

    def get(self, actor: Actor, budget_id: UUID) -> StoredBudget:
        """Return a budget and how it stands. Raises NotFoundError."""
        with self._database.statement() as connection:
            return _found(connection, actor, budget_id)

    def find(
        self,
        actor: Actor,
        *,
        subject_id: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[StoredBudget]:
        """Return a page of the actor's own budgets and those of their tasks; an admin sees all."""
        before = read_cursor(_KIND, cursor)
        with self._database.statement() as connection:
            found = budgets.find(
                connection,
                owner=actor.scope,
                subject_id=subject_id,
                before=before,
                limit=limit + 1,
            )
        return Page.cut(found, limit=limit, kind=_KIND, key=lambda each: each.id)

    def remove(self, actor: Actor, budget_id: UUID) -> None:
        """Forget a budget: it bounds nothing any more. Raises ForbiddenError, NotFoundError."""
        with self._database.transaction() as connection:
            found = _found(connection, actor, budget_id)
            actor.require(Role.ADMIN if found.scope is BudgetScope.USER else Role.OPERATOR)
            budgets.remove(connection, budget_id)
            details = {"scope": found.scope.value, "subject_id": str(found.subject_id)}
            audit.record(connection, actor, "budget.remove", "budget", [budget_id], details=details)
        logger.info("budget.removed", budget_id=budget_id)

    def of_execution(self, actor: Actor, execution_id: UUID) -> list[Standing]:
        """Return how all budgets stand that apply to an execution. Raises NotFoundError."""
        with self._database.statement() as connection:
            row = executions.get(connection, execution_id, owner=actor.scope)
        if row is None:
            raise NotFoundError("execution", execution_id)
        plan = self._plans.of_versions(row.task_version_id, row.agent_version_id)
        own = row.options.budget or plan.task.budget
        with self._database.statement() as connection:
            return budgets.standings(connection, Payer(row.id, row.task_id, row.owner_id, own))


def put_budget(
    connection: Connection,
    actor: Actor,
    *,
    scope: BudgetScope,
    subject_id: UUID,
    period: Period,
    budget: Budget,
) -> UUID:
    """Store a budget in the caller's transaction; call `Budgets.was_put` when it is committed.

    Raises NotFoundError.
    """
    budget_id = budgets.put(
        connection,
        scope=scope,
        subject_id=subject_id,
        owner_id=_owner(connection, actor, scope, subject_id),
        period=period,
        budget=budget,
    )
    budgets.begin_windows(connection, Payer.of_subject(subject_id))
    details = {"scope": scope.value, "subject_id": str(subject_id), "period": period.value,
               **budget.model_dump(mode="json")}  # fmt: skip
    audit.record(connection, actor, "budget.set", "budget", [budget_id], details=details)
    return budget_id


def budget_of(connection: Connection, subject_id: UUID, period: Period) -> StoredBudget | None:
    """Return the budget of a task or a user for a period, if it is set."""
    found = budgets.find(
        connection, owner=None, subject_id=subject_id, before=None, limit=len(Period)
    )
    return next((each for each in found if each.period is period), None)


def _owner(connection: Connection, actor: Actor, scope: BudgetScope, subject_id: UUID) -> UUID:
    if scope is BudgetScope.USER:
        user = accounts.user(connection, subject_id)
        if user is None:
            raise NotFoundError("user", subject_id)
        return user.id
    task = tasks.by_id(connection, subject_id, owner=actor.scope)
    if task is None:
        raise NotFoundError("task", subject_id)
    return task.owner_id


def _found(connection: Connection, actor: Actor, budget_id: UUID) -> StoredBudget:
    found = budgets.get(connection, budget_id, owner=actor.scope)
    if found is None:
        raise NotFoundError("budget", budget_id)
    return found
