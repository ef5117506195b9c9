"""`/api/v1/pauses`: pause and resume the system, queues, workers, and what workspaces have."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.accounts import Actor
from celeriac.domain.base import Strict
from celeriac.domain.executions.pauses import (
    LONGEST_KEY,
    LONGEST_NODE,
    LONGEST_REASON,
    PauseScope,
    PauseTarget,
)
from celeriac.domain.tasks import QueueName
from celeriac.wiring.api import ApiServices

router = APIRouter(prefix="/pauses", tags=["pauses"], route_class=JsonRoute)

PausePath = Annotated[UUID, Path(description="The pause's id.")]
Why = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_REASON)
]

_EXAMPLE: dict[str, Any] = {
    "scope": "queue",
    "queue": "enrichment",
    "reason": "The supplier's API is down until 14:00.",
}


class NewPause(Strict):
    """What to pause. Each of the fields is given for the scope of its name alone."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    scope: PauseScope = Field(
        strict=False,
        description="system, queue or worker (all three for administrators), task, workflow, "
        "limit, key, or workspace: that of the API key.",
    )
    queue: QueueName | None = Field(default=None, description="The name of the queue.")
    task: Reference | None = Field(default=None, description="The task's id or name.")
    worker: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NODE)] | None = Field(
        default=None, description="The name of the worker, as health shows it."
    )
    workflow: Reference | None = Field(default=None, description="The workflow's id or name.")
    limit: Reference | None = Field(
        default=None, description="The id or name of a limit of the workspace."
    )
    key: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_KEY)] | None = Field(
        default=None,
        description="A key of limits, as `limit_keys` of an execution has it.",
    )
    reason: Why = Field(description="Shown to those who ask why an execution waits.")

    @model_validator(mode="after")
    def _names_its_target(self) -> Self:
        for scope, given in (
            (PauseScope.QUEUE, self.queue),
            (PauseScope.TASK, self.task),
            (PauseScope.WORKER, self.worker),
            (PauseScope.WORKFLOW, self.workflow),
            (PauseScope.LIMIT, self.limit),
            (PauseScope.KEY, self.key),
        ):
            if given is None and self.scope is scope:
                raise ValueError(f"the scope {scope} needs the field {scope}")
            if given is not None and self.scope is not scope:
                raise ValueError(f"the field {scope} is only for the scope {scope}")
        return self

    def target(self, actor: Actor, services: ApiServices) -> PauseTarget:
        """Return what to pause. Raises NotFoundError for an unknown task or limit."""
        task_id = None if self.task is None else services.tasks.resolve(actor, self.task)
        limit_id = None if self.limit is None else services.limits.get(actor, self.limit).id
        workflow_id = self.workflow and services.workflows.resolve(actor, self.workflow)
        return PauseTarget(
            self.scope, self.queue, task_id, self.worker, workflow_id or None, limit_id, self.key
        )


@router.post(
    "",
    status_code=201,
    response_model=wire.Pause,
    summary="Pause the system, a queue, a worker, a task, a limit, a key or the workspace",
    responses=problem_responses(404, 409)
    | {200: {"model": wire.Pause, "description": "It was paused already; nothing was changed."}},
)
def create_pause(body: NewPause, actor: Operator, services: Services) -> Response:
    """Let nothing begin of what is named, until it is resumed. What runs continues.

    Submissions are accepted and wait. A worker takes nothing new after its next heartbeat; other
    workers go on. The workspace needs the role admin; queues, workers and the system need an
    administrator.
    """
    pause, made = services.pauses.pause(actor, body.target(actor, services), body.reason)
    return json_response(views.pause(pause), status=201 if made else 200)


@router.get("", response_model=wire.Page[wire.Pause], summary="List pauses")
def list_pauses(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return pauses of the workspace and its tasks, queues, workers and the system, newest first.

    All of them are in force: one that has ended is only in the audit trail.
    """
    return paging.answer(views.pause, services.pauses.find, actor)


@router.get("/{pause_id}", summary="Get a pause")
def get_pause(pause_id: PausePath, actor: Caller, services: Services) -> wire.Pause:
    """Return a pause that is in force."""
    return views.pause(services.pauses.get(actor, pause_id))


@router.post("/{pause_id}/resume", summary="End a pause")
def resume(pause_id: PausePath, actor: Operator, services: Services) -> wire.EndedPause:
    """Let begin what was paused, in its order, and return the pause that has ended.

    It answers at once; of many executions the keeper releases the rest, `left` of them. Needs the
    same role as the pause. Another pause may still be about the same executions.
    """
    return views.ended_pause(services.pauses.resume(actor, pause_id))
