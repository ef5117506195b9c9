"""Budgets as users manage them, messages about spent budgets, and usage."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection

from celeriac.db import accounts, approvals, audit, budgets, usage
from celeriac.db import approvals as answers
from celeriac.db.budgets import ChargeScope
from celeriac.db.catalog import tasks
from celeriac.db.engine import Database
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
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.usage import CallEstimate, MadeCall, UsageBy, UsageFilter, UsageTotal, dollars
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted
from celeriac.services.catalog.plans import SpecCache
from celeriac.services.ports import Job, LiveEvents

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


def breach(standing: BudgetState, call: CallEstimate | None = None) -> str:
    """Return in a phrase what is wrong: the budget is spent, or has no room for `call`."""
    if call is None or standing.spent_out:
        return standing.describe()
    needs = []
    if standing.max_cost is not None and call.least_cost is not None:
        left = standing.max_cost - standing.spent_cost
        needs.append(f"at least ${dollars(call.least_cost)}, ${dollars(left)} are left")
    if standing.max_tokens is not None:
        room = standing.max_tokens - standing.spent_tokens
        left_tokens = f"{room:,} is" if room == 1 else f"{room:,} are"
        needs.append(f"at least {counted(call.least_tokens, 'token')}, {left_tokens} left")
    return (
        f"the {standing.name} has no room for the next model call: it needs "
        f"{' and '.join(needs)} (spent: {standing.use})"
    )


def spent_error(
    standing: BudgetState, note: str = "", *, call: CallEstimate | None = None
) -> BudgetSpentError:
    """Return the error that ends an execution whose budget is spent, or can't hold `call`."""
    said = sentence(breach(standing, call))
    needs: dict[str, JsonValue] = {}
    if call is not None:
        needs["needed_tokens"] = call.least_tokens
        needs["needed_cost"] = None if call.least_cost is None else dollars(call.least_cost)
    return BudgetSpentError(f"{said} {note}".rstrip(), **_numbers(standing), **needs)


def question_about(standing: BudgetState, job: Job, call: CallEstimate | None = None) -> Question:
    """Ask whether more may be spent; the key is another one each time the limits were raised."""
    agent = job.agent
    policy = agent.approvals if isinstance(agent, LlmAgent | ClaudeAgent) else ApprovalPolicy()
    return Question(
        key=f"budget:{standing.budget_id}:{standing.window}:{standing.raised}",
        kind=QuestionKind.BUDGET,
        title=f"{sentence(breach(standing, call))} May more be spent?",
        arguments=_numbers(standing),
        schema=_ANSWER,
        expires_seconds=policy.expires_seconds,
    )


def extension_of(standing: BudgetState, answer: Answer) -> tuple[Decimal, int]:
    """Return the dollars and tokens that an approving answer allows in addition.

    Without a value it is as much again as the limits of the window are. Raises BudgetSpentError for
    a value that can't be read: nothing is allowed then.
    """
    try:
        extension = Extension.model_validate({} if answer.value is None else answer.value)
    except ValidationError as error:
        _, fault = first_fault(error)
        raise spent_error(standing, f"The answer can't be read: {fault}.") from error
    if extension.cost is None and extension.tokens is None:
        return standing.max_cost or Decimal(0), standing.max_tokens or 0
    return extension.cost or Decimal(0), extension.tokens or 0


def check_price(call: CallEstimate, standings: Sequence[BudgetState]) -> None:
    """Raise AgentMisconfiguredError where money is bounded and the call's price is not known."""
    if call.cost is None and any(each.max_cost is not None for each in standings):
        name = f"{call.provider}/{call.model}"
        raise AgentMisconfiguredError(
            f"The price of {name} is not known, so that no budget of money can hold it. Add it to "
            "the file that CELERIAC_PRICES_FILE names, or bound tokens (max_tokens) only.",
            field="model",
        )


def unheld(provider: str, model: str, *, known: bool) -> str:
    """Say that no budget of money holds a model: its price is 0, or not `known`."""
    name = f"{provider}/{model}"
    if known:
        return (
            f"The price of {name} is 0, so that no budget of money holds its calls. Bound tokens "
            "(max_tokens) too."
        )
    return (
        f"The price of {name} is not known, so that its calls count nothing in budgets of money. "
        "Add it to the file that CELERIAC_PRICES_FILE names, or bound tokens (max_tokens) too."
    )


def parked_behind(standings: Sequence[BudgetState], seconds: float) -> Parked:
    """Park for a moment: other calls under way hold what is left."""
    names = ", ".join(sorted({each.scope.value for each in standings}))
    note = f"Calls under way hold what is left of a budget ({names}); it is asked again soon."
    return Parked(WaitingFor.BUDGET, note, seconds=seconds)


def sentence(phrase: str) -> str:
    """Return a phrase as a sentence."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def _numbers(standing: BudgetState) -> dict[str, JsonValue]:
    return {
        "budget_id": str(standing.budget_id),
        "scope": standing.scope.value,
        "window": standing.window,
        "max_cost": None if standing.max_cost is None else dollars(standing.max_cost),
        "max_tokens": standing.max_tokens,
        "spent_cost": dollars(standing.spent_cost),
        "spent_tokens": standing.spent_tokens,
    }


_BATCH = 50
_NOTHING_MORE = {"cost": "0", "tokens": 0}


def answer_all_for_budget(database: Database, key_prefix: str, *, by: str, note: str) -> list[UUID]:
    """Approve all open questions about a budget whose keys begin so; return who goes on.

    They allow nothing in addition: that was done already.
    """
    given = Answer(approved=True, value=_NOTHING_MORE, note=note, by=by)
    resumed: list[UUID] = []
    while True:
        with database.transaction() as connection:
            found = approvals.open_about_budget(connection, key_prefix, limit=_BATCH)
            answered = [
                execution_id
                for approval_id, execution_id in found
                if answers.answer(connection, approval_id, given)
            ]
            resumed += lifecycle.resume_answered(connection, answered)
        if not answered:  # none is left, or others answer them
            return resumed


logger = structlog.get_logger(__name__)

_KIND = "budgets"


class Budgets:
    """The budgets of tasks and users. Safe to share between threads."""

    def __init__(self, database: Database, plans: SpecCache, live: LiveEvents) -> None:
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
        self._live.changed(
            answer_all_for_budget(self._database, key_prefix, by=actor.name, note=note)
        )
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

    def of_execution(self, actor: Actor, execution_id: UUID) -> list[BudgetState]:
        """Return how all budgets stand that apply to an execution. Raises NotFoundError."""
        with self._database.statement() as connection:
            row = queries.get(connection, execution_id, owner=actor.scope)
        if row is None:
            raise NotFoundError("execution", execution_id)
        plan = self._plans.of_versions(row.task_version_id, row.agent_version_id)
        own = row.options.budget or plan.task.budget
        with self._database.statement() as connection:
            return budgets.standings(
                connection, ChargeScope(row.id, row.task_id, row.owner_id, own)
            )


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
    budgets.begin_windows(connection, ChargeScope.of_subject(subject_id))
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


_CALLS = "model-calls"
_DAYS = 30


class Usage:
    """Answers questions about usage. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        """Read from `database`."""
        self._database = database

    def calls(
        self, actor: Actor, execution_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[MadeCall]:
        """Return a page of an execution's model calls, the oldest first. Raises NotFoundError."""
        after = read_cursor(_CALLS, cursor)
        with self._database.statement() as connection:
            if not queries.statuses(connection, [execution_id], owner=actor.scope):
                raise NotFoundError("execution", execution_id)
            found = usage.calls(connection, execution_id, after=after, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_CALLS, key=lambda call: call.id)

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
        """Return totals: of everybody for an admin, else of the actor's own executions.

        Days are UTC, by the database's clock; unless told otherwise they are the last thirty.
        Raises InvalidInputError.
        """
        owner = user_id if actor.sees_all else actor.user_id
        with self._database.statement() as connection:
            until = until or usage.today(connection)
            since = since or until - min(timedelta(days=_DAYS - 1), until - date.min)
            if since > until:
                raise InvalidInputError("since lies after until; swap them.", field="since")
            wanted = UsageFilter(since=since, until=until, owner_id=owner, task_id=task_id)
            return usage.totals(connection, by, wanted, limit=limit)
