"""Budgets over HTTP, and what model calls used."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Day, ExecutionPath, Limit, Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, StoredBudget
from celeriac.domain.usage import UsageBy

_BUDGET: dict[str, Any] = {
    "task": "summarise",
    "period": "day",
    "max_cost": "5.00",
    "max_tokens": 2_000_000,
    "on_budget": "ask",
}


class NewBudget(Budget):
    """The budget of a task, a user or a workspace for a period."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BUDGET]})

    task: Reference | None = Field(default=None, description="The task's id or name.")
    user_id: UUID | None = Field(
        default=None,
        strict=False,
        description="The user's id; only administrators set budgets of users.",
    )
    workspace: Reference | None = Field(
        default=None,
        description="The workspace's id or name; only administrators set budgets of workspaces.",
    )
    period: Period = Field(strict=False)

    @model_validator(mode="after")
    def _is_for_one(self) -> Self:
        if sum(each is not None for each in (self.task, self.user_id, self.workspace)) != 1:
            raise ValueError("name one of these: a task, a user_id or a workspace")
        return self

    def budget(self) -> Budget:
        """Return the limits alone."""
        return Budget(max_cost=self.max_cost, max_tokens=self.max_tokens, on_budget=self.on_budget)


router = APIRouter(prefix="/budgets", tags=["budgets"], route_class=JsonRoute)
usage_router = APIRouter(tags=["usage"], route_class=JsonRoute)

BudgetPath = Annotated[UUID, Path(description="The budget's id.")]


@router.post("", summary="Set a budget", responses=problem_responses(404))
def set_budget(body: NewBudget, actor: Operator, services: Services) -> wire.Budget:
    """Set the budget of a task, a user or a workspace for a period. It replaces an earlier one.

    Usage since the day or month began counts. Executions that wait for a larger budget continue.
    """

    def set_for(subject_id: UUID, scope: BudgetScope = BudgetScope.TASK) -> StoredBudget:
        return services.budgets.put(actor, scope, subject_id, body.period, body.budget())

    if body.user_id is not None:
        return views.budget(set_for(body.user_id, BudgetScope.USER))
    if body.workspace is not None:
        workspace = services.workspaces.get(actor, body.workspace)
        return views.budget(set_for(workspace.id, BudgetScope.WORKSPACE))
    return views.budget(services.tasks.use(actor, str(body.task), set_for))


@router.get(
    "",
    response_model=wire.Page[wire.Budget],
    summary="List budgets",
    responses=problem_responses(404),
)
def list_budgets(
    actor: Caller,
    services: Services,
    paging: Paging,
    task: Annotated[Reference | None, Query(description="Of this task: its id or name.")] = None,
    user_id: Annotated[UUID | None, Query(description="Of this user.")] = None,
    workspace: Annotated[
        Reference | None, Query(description="Of this workspace: its id or name.")
    ] = None,
) -> Response:
    """Return the budgets of the workspace and its tasks, and in your personal one also yours.

    The newest first. An administrator also sees those of all users and workspaces.
    """
    subject_id = user_id if task is None else services.tasks.resolve(actor, task)
    if workspace is not None:
        subject_id = services.workspaces.get(actor, workspace).id
    return paging.answer(views.budget, services.budgets.find, actor, subject_id=subject_id)


@router.get("/{budget_id}", summary="Get a budget")
def get_budget(budget_id: BudgetPath, actor: Caller, services: Services) -> wire.Budget:
    """Return a budget and how far it is used."""
    return views.budget(services.budgets.get(actor, budget_id))


@router.delete("/{budget_id}", status_code=204, summary="Delete a budget")
def delete_budget(budget_id: BudgetPath, actor: Operator, services: Services) -> None:
    """Delete a budget. Only an administrator can delete that of a user or a workspace."""
    services.budgets.delete(actor, budget_id)


@usage_router.get("/usage", summary="Sum up usage", responses=problem_responses(404))
def get_usage(
    actor: Caller,
    services: Services,
    by: Annotated[UsageBy, Query(description="What to sum up by.")] = UsageBy.DAY,
    since: Annotated[Day | None, Query(description="First day, UTC. Default: 30 days ago.")] = None,
    until: Annotated[Day | None, Query(description="Last day, UTC. Default: today.")] = None,
    task: Annotated[Reference | None, Query(description="Of this task: its id or name.")] = None,
    user_id: Annotated[UUID | None, Query(description="Of what this user ran.")] = None,
    limit: Limit = 50,
) -> wire.UsageTotals:
    """Return what model calls of the workspace's executions used.

    By workspace it is that of all workspaces, for administrators. Days are ordered by time, the
    newest first; everything else by cost, the highest first. The usage of a single execution is
    part of the execution.
    """
    found = services.usage.totals(
        actor,
        by,
        since=since,
        until=until,
        task_id=None if task is None else services.tasks.resolve(actor, task),
        user_id=user_id,
        limit=limit,
    )
    return wire.UsageTotals(items=[wire.UsageTotal.model_validate(each) for each in found])


@usage_router.get(
    "/task-executions/{execution_id}/model-calls",
    response_model=wire.Page[wire.MadeCall],
    summary="List an execution's model calls",
)
def list_model_calls(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    paging: Paging,
) -> Response:
    """Return the model calls of all attempts, the oldest first."""
    return paging.answer(wire.MadeCall.model_validate, services.usage.calls, actor, execution_id)


@usage_router.get(
    "/task-executions/{execution_id}/budgets", summary="List the budgets of an execution"
)
def list_execution_budgets(
    execution_id: ExecutionPath, actor: Caller, services: Services
) -> wire.BudgetStates:
    """Return the state of the budgets that apply to an execution: its own, its task's, and others.

    That of the user who started it is shown to them and to administrators.
    `overshoot` is what was spent beyond a limit: at most part of the one call under way.
    """
    found = services.budgets.of_execution(actor, execution_id)
    return wire.BudgetStates(items=list(map(wire.BudgetState.model_validate, found)))
