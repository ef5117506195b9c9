"""Management of budgets, messages about spent budgets, and usage."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import structlog
from pydantic import ValidationError

from celeriac.db import accounts, approvals, audit, usage, workspaces
from celeriac.db.audit import Program
from celeriac.db.budgets import management, windows
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.catalog import TASKS
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import lifecycle, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import ApprovalPolicy, ClaudeAgent, LlmAgent
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, BudgetState, Extension, StoredBudget
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    BudgetSpentError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.paging import Page
from celeriac.domain.usage import CallEstimate, MadeCall, UsageBy, UsageFilter, UsageTotal, dollars
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.ports import Job, LiveEvents
from celeriac.services.reading import present, read_page

_ANSWER: JsonObject = {
    "type": ["object", "null"],
    "properties": {
        "cost": {
            "type": ["number", "string", "null"],
            "minimum": 0,
            "description": "US dollars to allow in addition.",
        },
        "tokens": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "Tokens to allow in addition.",
        },
    },
    "additionalProperties": False,
}


def breach(state: BudgetState, call: CallEstimate | None = None) -> str:
    """Return as a phrase why a call is denied: the budget is spent, or has no room for it."""
    if call is None or state.spent_out:
        return state.describe()
    if state.private:
        return f"the {state.name} has no room for the next model call"
    needs = []
    if state.max_cost is not None and call.least_cost is not None:
        left = state.max_cost - state.spent_cost
        needs.append(f"at least ${dollars(call.least_cost)}, ${dollars(left)} are left")
    if state.max_tokens is not None:
        room = state.max_tokens - state.spent_tokens
        left_tokens = f"{room:,} is" if room == 1 else f"{room:,} are"
        needs.append(f"at least {counted(call.least_tokens, 'token')}, {left_tokens} left")
    return (
        f"the {state.name} has no room for the next model call: it needs "
        f"{' and '.join(needs)} (spent: {state.use})"
    )


def spent_error(
    state: BudgetState, note: str = "", *, call: CallEstimate | None = None
) -> BudgetSpentError:
    """Return the error that ends an execution whose budget is spent or has no room for `call`."""
    said = sentence(breach(state, call))
    needs: dict[str, JsonValue] = {}
    if call is not None and not state.private:
        needs["needed_tokens"] = call.least_tokens
        needs["needed_cost"] = None if call.least_cost is None else dollars(call.least_cost)
    return BudgetSpentError(f"{said} {note}".rstrip(), **_numbers(state), **needs)


def question_about(state: BudgetState, job: Job, call: CallEstimate | None = None) -> Question:
    """Return the question for more budget; its key changes each time the limits are raised."""
    agent = job.agent
    policy = agent.approvals if isinstance(agent, LlmAgent | ClaudeAgent) else ApprovalPolicy()
    return Question(
        key=f"budget:{state.budget_id}:{state.window}:{state.raised}",
        kind=QuestionKind.BUDGET,
        title=f"{sentence(breach(state, call))} May more be spent?",
        arguments=_numbers(state),
        schema=_ANSWER,
        expires_seconds=policy.expires_seconds,
    )


def extension_of(state: BudgetState, answer: Answer) -> tuple[Decimal, int]:
    """Return the dollars and tokens that an approving answer allows in addition.

    Without a value that is the limits of the window once more. Raises BudgetSpentError for an
    invalid value.
    """
    try:
        extension = Extension.model_validate({} if answer.value is None else answer.value)
    except ValidationError as error:
        _, fault = first_fault(error)
        raise spent_error(state, f"The answer can't be read: {fault}.") from error
    if extension.cost is None and extension.tokens is None:
        return state.max_cost or Decimal(0), state.max_tokens or 0
    return extension.cost or Decimal(0), extension.tokens or 0


def check_price(call: CallEstimate, states: Sequence[BudgetState]) -> None:
    """Raise AgentMisconfiguredError if the cost is limited and the call's price is unknown."""
    if call.cost is None and any(each.max_cost is not None for each in states):
        name = f"{call.provider}/{call.model}"
        raise AgentMisconfiguredError(
            f"The price of {name} is unknown, so no cost limit can apply to it. Add it to the file "
            "that CELERIAC_PRICES_FILE names, or limit only tokens (max_tokens).",
            field="model",
        )


def unheld(provider: str, model: str, *, known: bool) -> str:
    """Return the warning that no cost limit applies to a model without a (`known`) price."""
    name = f"{provider}/{model}"
    if known:
        return (
            f"The price of {name} is 0, so no cost limit applies to its calls. Limit tokens "
            "(max_tokens) too."
        )
    return (
        f"The price of {name} is unknown, so its calls don't count against cost limits. Add it to "
        "the file that CELERIAC_PRICES_FILE names, or limit tokens (max_tokens) too."
    )


def parked_behind(states: Sequence[BudgetState], seconds: float) -> Parked:
    """Return a short parking: other calls have reserved what is left."""
    names = ", ".join(sorted({each.scope.value for each in states}))
    note = (
        f"Other calls have reserved what is left of a budget ({names}); it is checked again soon."
    )
    return Parked(WaitingFor.BUDGET, note, seconds=seconds)


def sentence(phrase: str) -> str:
    """Return a phrase as a sentence."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def _numbers(state: BudgetState) -> dict[str, JsonValue]:
    budget: dict[str, JsonValue] = {
        "budget_id": str(state.budget_id),
        "scope": state.scope.value,
        "window": state.window,
    }
    if state.private:
        return budget
    return budget | {
        "max_cost": None if state.max_cost is None else dollars(state.max_cost),
        "max_tokens": state.max_tokens,
        "spent_cost": dollars(state.spent_cost),
        "spent_tokens": state.spent_tokens,
    }


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
            resumed += lifecycle.resume_answered(
                connection, [each.execution_id for each in answered]
            )
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

    def remove(self, actor: Actor, budget_id: UUID) -> None:
        """Delete a budget. Raises ForbiddenError, NotFoundError."""
        with self._database.transaction() as connection:
            found = _found(connection, actor, budget_id)
            _require(actor, found.scope)
            management.remove(connection, budget_id)
            details = {"scope": found.scope.value, "subject_id": str(found.subject_id)}
            audit.record(
                connection,
                actor,
                "budget.remove",
                [budget_id],
                details=details,
                workspace_id=found.workspace_id,
            )
        logger.info("budget.removed", budget_id=budget_id)

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


_DAYS = 30


class Usage:
    """Reads usage, and folds what workers have appended to it. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def calls(
        self, actor: Actor, execution_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[MadeCall]:
        """Return a page of an execution's model calls, the oldest first. Raises NotFoundError."""

        def find(connection: Connection, *, before: UUID | None, limit: int) -> list[MadeCall]:
            if not queries.statuses(connection, [execution_id], workspace=actor.workspace_id):
                raise NotFoundError("execution", execution_id)
            return usage.calls(connection, execution_id, after=before, limit=limit)

        return read_page(self._database, "model-calls", cursor, limit, find)

    def totals(
        self,
        actor: Actor,
        by: UsageBy,
        *,
        since: date | None = None,
        until: date | None = None,
        task_id: UUID | None = None,
        user_id: UUID | None = None,
        limit: int = 50,
    ) -> list[UsageTotal]:
        """Return totals of the workspace's executions; by workspace, those of all workspaces.

        Days are UTC, by the database's clock; default are the last thirty. Raises
        InvalidInputError, and ForbiddenError: only an administrator sums up by workspace.
        """
        every = by is UsageBy.WORKSPACE
        if every:
            actor.require_administrator()
        with self._database.autocommit() as connection:
            until = until or usage.today(connection)
            since = since or until - min(timedelta(days=_DAYS - 1), until - date.min)
            if since > until:
                raise InvalidInputError("since is after until; swap them.", field="since")
            wanted = UsageFilter(
                since=since,
                until=until,
                workspace_id=None if every else actor.workspace_id,
                owner_id=user_id,
                task_id=task_id,
            )
            return usage.totals(connection, by, wanted, limit=limit)

    def fold(self, limit: int) -> int:
        """Fold all deltas into the totals of their days, `limit` at a time; return how many.

        Readers see the same totals before, during and after it.
        """
        total = 0
        while True:
            with self._database.autocommit() as connection:
                count = usage.fold(connection, limit=limit)
            total += count
            if count < limit:
                return total
