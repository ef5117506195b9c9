"""Usage over HTTP: model calls, totals, and the budgets that an execution is held to."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, problem_responses
from celeriac.api.v1.schemas.catalog import Reference
from celeriac.api.v1.schemas.executions import Day
from celeriac.domain.usage import UsageBy

router = APIRouter(tags=["usage"], route_class=JsonRoute)

ExecutionPath = Annotated[UUID, Path(description="The execution's id.")]


@router.get(
    "/usage",
    operation_id="get_usage",
    summary="Add up usage",
    responses=READING | problem_responses(404),
)
def totals(
    actor: Caller,
    services: Services,
    by: Annotated[UsageBy, Query(description="What to add up by.")] = UsageBy.DAY,
    since: Annotated[
        Day | None, Query(description="First day, UTC; 30 days back if not given.")
    ] = None,
    until: Annotated[Day | None, Query(description="Last day, UTC; today if not given.")] = None,
    task: Annotated[Reference | None, Query(description="Of this task: its id or name.")] = None,
    user_id: Annotated[UUID | None, Query(description="Of this user; for admins.")] = None,
    limit: Limit = 50,
) -> wire.UsageTotals:
    """Return what model calls used: of your executions; an admin sees everybody's.

    The newest days come first, of all else the dearest. What one execution used is on its row.
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


@router.get(
    "/task-executions/{execution_id}/model-calls",
    operation_id="list_model_calls",
    summary="List an execution's model calls",
    responses=READING | problem_responses(404),
)
def calls(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> wire.Page[wire.MadeCall]:
    """Return the model calls of all attempts, the oldest first."""
    page = services.usage.calls(actor, execution_id, cursor=cursor, limit=limit)
    items = [wire.MadeCall.model_validate(each) for each in page.items]
    return wire.Page(items=items, next_cursor=page.next_cursor)


@router.get(
    "/task-executions/{execution_id}/budgets",
    operation_id="list_execution_budgets",
    summary="List the budgets of an execution",
    responses=READING | problem_responses(404),
)
def budgets(execution_id: ExecutionPath, actor: Caller, services: Services) -> wire.BudgetStandings:
    """Return how all budgets stand now that hold this execution: its own, its task's, its user's.

    What was spent beyond a limit is its `overshoot`: at most part of the one call under way.
    """
    found = services.budgets.of_execution(actor, execution_id)
    return wire.BudgetStandings(items=list(map(views.standing, found)))
