"""`/api/v1/failure-groups`: failures with the same cause, and what people say about them."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.base import Strict
from celeriac.domain.executions.model import BULKY, ExecutionFilter
from celeriac.domain.failure_states import FailureState
from celeriac.domain.failures import LONGEST_NOTE, FailureChange, FailureFilter, FailureGroup

router = APIRouter(prefix="/failure-groups", tags=["failures"], route_class=JsonRoute)

_SHOWN = 10

GroupPath = Annotated[UUID, Path(description="The group's id.")]


class FailureGroupChange(Strict):
    """What to change; fields that are left out stay."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"state": "resolved", "note": "Fixed in 2.1."}]}
    )

    state: Annotated[FailureState, Field(strict=False)] | None = Field(
        default=None, description="known, resolved or muted."
    )
    note: str | None = Field(default=None, max_length=LONGEST_NOTE)
    version: int | None = Field(
        default=None,
        ge=1,
        description="Refuse the change, with `conflict`, if the group has another version by now.",
    )


def _shown(found: FailureGroup) -> wire.FailureGroup:
    return wire.FailureGroup.linked(_values(found))


def _values(found: FailureGroup) -> dict[str, object]:
    names = wire.FailureGroup.model_fields.keys() - {"links"}
    return {name: getattr(found, name) for name in names}


@router.get(
    "",
    response_model=wire.Page[wire.FailureGroup],
    summary="List groups of failures",
    responses=problem_responses(404),
)
def list_failure_groups(
    actor: Caller,
    services: Services,
    paging: Paging,
    state: Annotated[
        list[FailureState], Query(description="Only in this state. One or several.")
    ] = [],  # noqa: B006 - never changed
    task: Annotated[Reference | None, Query(description="Of this task: its id or name.")] = None,
) -> Response:
    """Return the workspace's failed executions, grouped by task and cause.

    The group with the newest execution is first. Failures of the last few seconds may be missing.
    """
    wanted = FailureFilter(
        workspace_id=actor.workspace_id,
        states=tuple(state),
        task_id=None if task is None else services.tasks.resolve(actor, task),
    )
    return paging.answer(_shown, services.failures.find, actor, wanted)


@router.get(
    "/{group_id}", response_model=wire.FailureGroupDetails, summary="Get a group of failures"
)
def get_failure_group(group_id: GroupPath, actor: Caller, services: Services) -> Response:
    """Return a group with its newest executions; `links.executions` has all of them."""
    found = services.failures.get(actor, group_id)
    newest = services.queries.executions(actor, ExecutionFilter(failure=found.key), limit=_SHOWN)
    executions = list(map(views.summary, newest.items))
    shown = wire.FailureGroupDetails.linked({**_values(found), "executions": executions})
    return json_response(shown, exclude={"executions": {"__all__": set(BULKY)}})


@router.patch("/{group_id}", summary="Change a group of failures", responses=problem_responses(409))
def change_failure_group(
    group_id: GroupPath, body: FailureGroupChange, actor: Operator, services: Services
) -> wire.FailureGroup:
    """Set the state or the note of a group.

    A resolved group becomes `regressed` with the next failure; a muted one stays muted.
    """
    wanted = FailureChange(state=body.state, note=body.note, version=body.version)
    return _shown(services.failures.change(actor, group_id, wanted))
