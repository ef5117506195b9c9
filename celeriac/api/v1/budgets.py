"""Budgets over HTTP.

Requests about budgets.
"""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, problem_responses
from celeriac.api.v1.schemas.catalog import Reference
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget, StoredBudget

_BUDGET: dict[str, Any] = {
    "task": "summarise",
    "period": "day",
    "max_cost": "5.00",
    "max_tokens": 2_000_000,
    "on_budget": "ask",
}


class NewBudget(Budget):
    """The budget of a task, or of a user, for a period."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BUDGET]})

    task: Reference | None = Field(
        default=None, description="The task's id, or the name of one of yours."
    )
    user_id: UUID | None = Field(
        default=None, strict=False, description="The user's id; only admins set users' budgets."
    )
    period: Period = Field(strict=False)

    @model_validator(mode="after")
    def _is_for_one(self) -> Self:
        if (self.task is None) == (self.user_id is None):
            raise ValueError("name either a task or a user_id")
        return self

    def budget(self) -> Budget:
        """Return the limits alone."""
        return Budget(max_cost=self.max_cost, max_tokens=self.max_tokens, on_budget=self.on_budget)


router = APIRouter(prefix="/budgets", tags=["budgets"], route_class=JsonRoute)

BudgetPath = Annotated[UUID, Path(description="The budget's id.")]


@router.post(
    "",
    operation_id="set_budget",
    summary="Set a budget",
    responses=WRITING | problem_responses(404),
)
def put(body: NewBudget, actor: Operator, services: Services) -> wire.Budget:
    """Set the budget of a task or a user for a period, in the place of an earlier one.

    What was used since the day or month began counts. Executions that ask for more of it go on.
    """
    scope = BudgetScope.TASK if body.user_id is None else BudgetScope.USER

    def set_for(subject_id: UUID) -> StoredBudget:
        return services.budgets.put(actor, scope, subject_id, body.period, body.budget())

    if body.user_id is not None:
        return views.budget(set_for(body.user_id))
    return views.budget(services.tasks.use(actor, str(body.task), set_for))


@router.get(
    "",
    operation_id="list_budgets",
    summary="List budgets",
    responses=READING | problem_responses(404),
)
def find(
    actor: Caller,
    services: Services,
    task: Annotated[Reference | None, Query(description="Of this task: its id or name.")] = None,
    user_id: Annotated[UUID | None, Query(description="Of this user.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> wire.Page[wire.Budget]:
    """Return your budgets and those of your tasks, the newest first; an admin sees everybody's."""
    subject_id = user_id if task is None else services.tasks.resolve(actor, task)
    page = services.budgets.find(actor, subject_id=subject_id, cursor=cursor, limit=limit)
    return wire.Page(items=list(map(views.budget, page.items)), next_cursor=page.next_cursor)


@router.get(
    "/{budget_id}",
    operation_id="get_budget",
    summary="Get a budget",
    responses=READING | problem_responses(404),
)
def get(budget_id: BudgetPath, actor: Caller, services: Services) -> wire.Budget:
    """Return a budget and how far it is used."""
    return views.budget(services.budgets.get(actor, budget_id))


@router.delete(
    "/{budget_id}",
    status_code=204,
    response_class=Response,
    operation_id="remove_budget",
    summary="Remove a budget",
    responses=READING | problem_responses(403, 404),
)
def remove(budget_id: BudgetPath, actor: Operator, services: Services) -> Response:
    """Remove a budget: it bounds nothing any more. A user's is an admin's to remove."""
    services.budgets.remove(actor, budget_id)
    return Response(status_code=204)
