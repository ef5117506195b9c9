"""`/api/v1/limits`: the limits of the workspace, which are changed while it works."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.base import Name, Strict
from celeriac.domain.limit_policies import LimitOf, LimitPolicy
from celeriac.domain.workspace_limits import LimitSpec

router = APIRouter(prefix="/limits", tags=["limits"], route_class=JsonRoute)

LimitPath = Annotated[Reference, Path(description="The limit's id or name.")]

_EXAMPLE: dict[str, Any] = {"name": "per-customer", "key": "variables.customer", "max": 3}


_OF_RUNS: dict[str, Any] = {
    "name": "releases", "workflow": "release", "of": "runs", "key": "input.service", "max": 1,
}  # fmt: skip


class NewLimit(LimitSpec):
    """A limit to make: of all executions of the workspace, of a `task` or a `workflow`.

    With `of: runs` it is about the runs of the workflow.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE, _OF_RUNS]})

    name: Name = Field(description="It stays; keys begin with it: `limit:per-customer:42`.")
    task: Reference | None = Field(default=None, description="The task's id or name.")

    workflow: Reference | None = Field(
        default=None,
        description="The workflow's id or name: of the executions of its steps, or of its runs.",
    )

    @model_validator(mode="after")
    def _is_of_one(self) -> Self:
        if self.task is not None and self.workflow is not None:
            raise ValueError("name a task or a workflow, and not both")
        if self.of is LimitOf.RUNS and self.workflow is None:
            raise ValueError("a limit of runs is about those of a workflow: name it as workflow")
        return self

    def spec(self) -> LimitSpec:
        """Return what it says."""
        return LimitSpec(**{name: getattr(self, name) for name in LimitSpec.model_fields})


class LimitChange(Strict):
    """What to change; fields that are left out stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max": 5}]})

    max: int = Field(default=1, ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, gt=0, le=366 * 86_400, description="Of a rate.")
    burst: int | None = Field(default=None, ge=1, le=1_000_000, description="Of a rate.")
    policy: LimitPolicy = Field(default=LimitPolicy.QUEUE, strict=False)


@router.post("", status_code=201, summary="Create a limit", responses=problem_responses(404, 409))
def create_limit(body: NewLimit, actor: Operator, services: Services) -> wire.Limit:
    """Limit how many executions with the same key run at once, or with `seconds` how many begin.

    It also holds for executions that were submitted before; what runs continues, and counts. An
    execution for which the key is null, or needs a variable that it does not have, is not limited.
    A limit of the whole workspace needs the role admin.

    With `of: runs` it limits how many runs of the workflow run at once. The key is computed from
    `input` and `run`. It holds for runs that are submitted from then on; earlier ones neither wait
    for it nor count.
    """
    task_id = None if body.task is None else services.tasks.resolve(actor, body.task)
    workflow_id = body.workflow and services.workflows.resolve(actor, body.workflow)
    made = services.limits.create(
        actor, body.name, body.spec(), task_id=task_id, workflow_id=workflow_id or None
    )
    return views.limit(made)


@router.get("", response_model=wire.Page[wire.Limit], summary="List limits")
def list_limits(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the limits of the workspace with their use, the newest first."""
    return paging.answer(views.limit, services.limits.find, actor)


@router.get("/{limit}", summary="Get a limit")
def get_limit(limit: LimitPath, actor: Caller, services: Services) -> wire.Limit:
    """Return a limit and its use."""
    return views.limit(services.limits.get(actor, limit))


@router.patch("/{limit}", summary="Change a limit")
def change_limit(
    limit: LimitPath, body: LimitChange, actor: Operator, services: Services
) -> wire.Limit:
    """Change the numbers or the policy of a limit.

    The numbers hold at once for all that have the limit: with larger ones, what waits begins; with
    smaller ones, nothing that runs is cancelled. The policy holds for what is submitted from now
    on. A limit of the whole workspace needs the role admin.
    """
    values = {name: getattr(body, name) for name in body.model_fields_set}
    return views.limit(services.limits.change(actor, limit, values))


@router.delete("/{limit}", status_code=204, summary="Delete a limit")
def delete_limit(limit: LimitPath, actor: Operator, services: Services) -> None:
    """Delete a limit: what waited only for it begins.

    A limit of the whole workspace needs the role admin.
    """
    services.limits.delete(actor, limit)
