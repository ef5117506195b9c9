"""`/api/v1/bulk-jobs`: one action for many executions, previewed, started, watched and stopped."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.api.v1.executions.schemas import Criteria
from celeriac.api.v1.executions.selected import selected, with_view
from celeriac.domain.base import Strict
from celeriac.domain.bulk_actions import BulkAction, BulkOutcome
from celeriac.domain.bulk_jobs import MAX_SCOPE, BulkItem, BulkJob, BulkPreview, NewBulkJob
from celeriac.domain.executions.model import BULKY
from celeriac.domain.executions.states import Status
from celeriac.domain.labels import MOST_LABELS, LabelKey, LabelValue
from celeriac.domain.tasks import PriorityLabel, QueueName

router = APIRouter(prefix="/bulk-jobs", tags=["bulk jobs"], route_class=JsonRoute)

JobPath = Annotated[UUID, Path(description="The job's id.")]


class BulkFilter(Criteria):
    """Which executions; all given fields must match."""

    status: list[Annotated[Status, Field(strict=False)]] = Field(
        default=[],
        min_length=1,
        description="One or several. Default: those that the action is for; for retry failed, for "
        "replay completed. "
        "With `id`, any.",
    )
    queue: QueueName | None = Field(
        default=None, description="In this queue; for actions on what has not ended."
    )


class BulkJobRequest(Strict):
    """What to do with which executions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"action": "cancel", "filter": {"task": "summarise", "queue": "night"}}]
        }
    )

    action: Annotated[BulkAction, Field(strict=False)] = Field(
        description="cancel, retry, replay, prioritise, move, label or delete.", examples=["cancel"]
    )
    filter: BulkFilter = Field(description="Which executions; at least one field.")
    priority: PriorityLabel | None = Field(
        default=None, description="For prioritise: low, normal, high or critical."
    )
    to_queue: QueueName | None = Field(default=None, description="For move: the name of a queue.")
    labels: dict[LabelKey, LabelValue | None] | None = Field(
        default=None,
        min_length=1,
        max_length=2 * MOST_LABELS,
        description="For label: labels to set, and with null those to remove; all others stay.",
    )
    limit: int = Field(
        default=MAX_SCOPE,
        ge=1,
        le=MAX_SCOPE,
        description="The most executions of the job; the newest that match.",
    )


_ARGUMENTS = ("priority", "to_queue", "labels")


def _shown(found: BulkJob) -> wire.BulkJob:
    return wire.BulkJob.linked(_values(found))


def _values(found: BulkJob) -> dict[str, Any]:
    names = wire.BulkJob.model_fields.keys() - {"links", "remaining"}
    values = {name: getattr(found, name) for name in names}
    return values | {"remaining": found.total - found.position}


def _previewed(found: BulkPreview) -> wire.BulkPreview:
    unfit = [
        wire.SkippedExecution(execution_id=key, code=reason.code, message=reason.message)
        for key, reason in found.unfit.items()
    ]
    return wire.BulkPreview.linked(
        {
            **_values(found.job),
            "expires_at": found.expires_at,
            "statuses": dict(found.statuses),
            "sample": list(map(views.summary, found.sample)),
            "looked_at": found.looked_at,
            "unfit": unfit,
        }
    )


def _item(found: BulkItem) -> wire.BulkItem:
    names = wire.BulkItem.model_fields.keys() - {"links"}
    return wire.BulkItem.linked({name: getattr(found, name) for name in names})


@router.post(
    "",
    status_code=201,
    response_model=wire.BulkPreview,
    summary="Preview a bulk job",
    responses=problem_responses(404),
)
def preview_bulk_job(body: BulkJobRequest, actor: Operator, services: Services) -> Response:
    """Select executions for an action and return what a job would do. Nothing is changed.

    The selection is stored: `POST /bulk-jobs/{id}/start` changes exactly these executions, however
    many match by then. A preview that nobody starts is deleted after an hour, or once you have made
    ten newer ones.
    """
    wanted = with_view(body.filter, actor, services)  # the job shows what the view was
    named = wanted.model_dump(mode="json", exclude_unset=True)
    given = {name: value for name, value in named.items() if value is not None}
    stated = body.model_dump(mode="json", include=set(_ARGUMENTS))
    arguments = {name: value for name, value in stated.items() if value is not None}
    new = NewBulkJob(
        action=body.action,
        arguments=arguments,
        given=given,
        wanted=selected(wanted, actor, services),
        limit=body.limit,
    )
    found = _previewed(services.bulk_jobs.preview(actor, new))
    return json_response(found, status=201, exclude={"sample": {"__all__": set(BULKY)}})


@router.get("", response_model=wire.Page[wire.BulkJob], summary="List bulk jobs")
def list_bulk_jobs(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the started jobs of the workspace, the newest first."""
    return paging.answer(_shown, services.bulk_jobs.find, actor)


@router.get("/{job_id}", summary="Get a bulk job")
def get_bulk_job(job_id: JobPath, actor: Caller, services: Services) -> wire.BulkJob:
    """Return a job with its progress."""
    return _shown(services.bulk_jobs.get(actor, job_id))


@router.post(
    "/{job_id}/start",
    status_code=202,
    summary="Start a bulk job",
    responses=problem_responses(409),
)
def start_bulk_job(job_id: JobPath, actor: Operator, services: Services) -> wire.BulkJob:
    """Start a preview of yours. The keeper works on the job, a hundred executions at a time.

    Each execution changes as by the request for a single one. Starting a job again changes nothing.
    """
    return _shown(services.bulk_jobs.start(actor, job_id))


@router.post("/{job_id}/stop", summary="Stop a bulk job", responses=problem_responses(409))
def stop_bulk_job(job_id: JobPath, actor: Operator, services: Services) -> wire.BulkJob:
    """Stop a job after its present batch. What was done stays.

    A job that has ended does not change.
    """
    return _shown(services.bulk_jobs.stop(actor, job_id))


@router.get(
    "/{job_id}/items",
    response_model=wire.Page[wire.BulkItem],
    summary="List the outcomes of a bulk job",
)
def list_bulk_job_items(
    job_id: JobPath,
    actor: Caller,
    services: Services,
    paging: Paging,
    outcome: Annotated[
        list[BulkOutcome], Query(description="Only with this outcome. One or several.")
    ] = [],  # noqa: B006 - never changed
) -> Response:
    """Return what became of the job's executions, the newest of them first.

    Those that have no outcome yet are not listed.
    """
    return paging.answer(_item, services.bulk_jobs.items, actor, job_id, outcome)
