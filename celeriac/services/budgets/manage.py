"""Management of budgets."""

from functools import partial
from uuid import UUID

import structlog

from celeriac.db import accounts, approvals, audit, workspaces
from celeriac.db.audit import Program
from celeriac.db.budgets import management, windows
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.catalog import TASKS
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import lifecycle, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.approvals import Answer
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, BudgetState, StoredBudget
from celeriac.domain.paging import Page
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.ports import LiveEvents
from celeriac.services.reading import present, read_page

_BATCH = 50
_NOTHING_MORE = {"cost": "0", "tokens": 0}


def answer_all_for_budget(
    database: Database, key_prefix: str, *, by: Actor | Program, note: str
) -> list[UUID]:
    """Approve all open questions whose keys begin with `key_prefix`; return what resumes.

    The answers allow nothing in addition: the limits were raised already. Each has an entry in the
    audit trail.
    """
    given = Answer(approved=True, value=_NOTHING_MORE, note=note, by=by.name)
    resumed: list[UUID] = []
    while True:
        with database.transaction() as connection:
            asked = approvals.lock_open_about_budget(connection, key_prefix, limit=_BATCH)
            answered = [each for each in asked if approvals.answer(connection, each, given)]
            for each in answered:
                audit.record(
                    connection,
                    by,
                    "approval.answer",
                    [each.id],
                    details={
                        "execution_id": str(each.execution_id),
                        "approved": True,
                        "note": note,
                    },
                    workspace_id=each.workspace_id,
                )
            resumed += lifecycle.resume_answered(connection, [each.asker for each in answered])
        if not answered:  # none is left, or others answered them
            return resumed


logger = structlog.get_logger(__name__)


class Budgets:
    """The budgets of tasks, users and workspaces. Safe to share between threads."""

    def __init__(self, database: Database, specs: SpecCache, live: LiveEvents) -> None:
        """Work on `database`; the budget of a single execution is in its specification."""
        self._database = database
        self._specs = specs
        self._live = live

    def put(
        self, actor: Actor, scope: BudgetScope, subject_id: UUID, period: Period, budget: Budget
    ) -> StoredBudget:
        """Set the budget of a task, a user or a workspace for a period, replacing an earlier one.

        What was used since the period began counts. Executions that wait for more of it resume
        under the new limits. Raises NotFoundError, and ForbiddenError: only an administrator sets
        the budget of a user or a workspace.
        """
        _require(actor, scope)
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
        self.after_put(actor, budget_id)
        return found

    def after_put(self, actor: Actor, budget_id: UUID) -> None:
        """Resume executions that wait for more of a budget, after its new limits are committed."""
        note = "The budget was changed."
        key_prefix = f"budget:{budget_id}:"
        self._live.changed(answer_all_for_budget(self._database, key_prefix, by=actor, note=note))
        logger.info("budget.set", budget_id=budget_id)

    def get(self, actor: Actor, budget_id: UUID) -> StoredBudget:
        """Return a budget and its state. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _found(connection, actor, budget_id)

    def find(
        self,
        actor: Actor,
        *,
        subject_id: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[StoredBudget]:
        """Return a page of the budgets that the actor may see. Raises CursorInvalidError.

        Those of the workspace and of its tasks; in a personal workspace also the user's. An
        administrator also sees those of all users and workspaces.
        """
        find = partial(
            management.find,
            workspace=actor.workspace_id,
            limits=actor.administrator,
            subject_id=subject_id,
        )
        return read_page(self._database, "budgets", cursor, limit, find)

    def delete(self, actor: Actor, budget_id: UUID) -> None:
        """Delete a budget. Raises ForbiddenError, NotFoundError."""
        with self._database.transaction() as connection:
            found = _found(connection, actor, budget_id)
            _require(actor, found.scope)
            management.delete(connection, budget_id)
            details = {"scope": found.scope.value, "subject_id": str(found.subject_id)}
            audit.record(
                connection,
                actor,
                "budget.delete",
                [budget_id],
                details=details,
                workspace_id=found.workspace_id,
            )
        logger.info("budget.deleted", budget_id=budget_id)

    def of_execution(self, actor: Actor, execution_id: UUID) -> list[BudgetState]:
        """Return the states of all budgets that apply to an execution. Raises NotFoundError.

        That of the user who started it is for them and for administrators.
        """
        with self._database.autocommit() as connection:
            row = queries.get(connection, execution_id, workspace=actor.workspace_id)
        row = present(row, "execution", execution_id)
        spec = self._specs.of_versions(row.task_version_id, row.agent_version_id)
        own = row.options.budget or spec.task.budget
        with self._database.autocommit() as connection:
            payer = ChargeScope(
                row.id, row.task_id, row.owner_id, row.workspace_id, own, row.options.tree
            )
            found = windows.states(connection, payer)
        sees_all = actor.administrator or actor.user_id == row.owner_id
        return [each for each in found if sees_all or not each.private]


def put_budget(
    connection: Connection,
    actor: Actor,
    *,
    scope: BudgetScope,
    subject_id: UUID,
    period: Period,
    budget: Budget,
) -> UUID:
    """Store a budget in the caller's transaction; call `Budgets.after_put` after the commit.

    Raises NotFoundError.
    """
    workspace_id = _workspace(connection, actor, scope, subject_id)
    budget_id = management.put(
        connection,
        scope=scope,
        subject_id=subject_id,
        workspace_id=workspace_id,
        owner_id=actor.user_id,
        period=period,
        budget=budget,
    )
    windows.begin_windows(connection, ChargeScope.of_subject(subject_id))
    details = {"scope": scope.value, "subject_id": str(subject_id), "period": period.value,
               **budget.model_dump(mode="json")}  # fmt: skip
    audit.record(
        connection,
        actor,
        "budget.set",
        [budget_id],
        details=details,
        workspace_id=workspace_id,
    )
    return budget_id


def budget_of(connection: Connection, subject_id: UUID, period: Period) -> StoredBudget | None:
    """Return the budget of a task, a user or a workspace for a period, or None."""
    found = management.find(
        connection, workspace=None, subject_id=subject_id, before=None, limit=len(Period)
    )
    return next((each for each in found if each.period is period), None)


def _require(actor: Actor, scope: BudgetScope) -> None:
    actor.require(Role.OPERATOR)
    if scope is not BudgetScope.TASK:
        actor.require_administrator()


def _workspace(connection: Connection, actor: Actor, scope: BudgetScope, subject_id: UUID) -> UUID:
    """Return the workspace that a budget belongs to: a user's budget to their personal one."""
    match scope:
        case BudgetScope.USER:
            user = accounts.user(connection, subject_id)
            return present(user, "user", subject_id).workspace_id
        case BudgetScope.WORKSPACE:
            workspace = workspaces.find_one(connection, str(subject_id))
            return present(workspace, "workspace", subject_id).id
        case _:
            task = TASKS.by_id(connection, subject_id, workspace=actor.workspace_id)
            return present(task, "task", subject_id).workspace_id


def _found(connection: Connection, actor: Actor, budget_id: UUID) -> StoredBudget:
    found = management.get(
        connection, budget_id, workspace=actor.workspace_id, limits=actor.administrator
    )
    return present(found, "budget", budget_id)
