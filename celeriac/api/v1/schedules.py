"""Schedules over HTTP: when tasks and workflows start by themselves, and their fires."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services, Timestamp
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.accounts import Actor
from celeriac.domain.base import Name, Strict
from celeriac.domain.schedules.cron import LONGEST_EXPRESSION, MIN_SECONDS
from celeriac.domain.schedules.model import (
    MAX_EVERY_SECONDS,
    MAX_JITTER_SECONDS,
    MAX_LATE_SECONDS,
    FireStatus,
    Timing,
)
from celeriac.domain.schedules.policies import (
    MAX_CAUGHT_UP,
    MAX_WINDOW_SECONDS,
    Misfire,
    Overlap,
    Policies,
)
from celeriac.services.schedules.start import Target
from celeriac.services.schedules.stored import NewSchedule as Wanted
from celeriac.wiring.api import ApiServices

router = APIRouter(prefix="/schedules", tags=["schedules"], route_class=JsonRoute)

_SCHEDULE: dict[str, Any] = {
    "name": "nightly",
    "workflow": "brief",
    "input": {"url": "https://example.org/${{ fire.date }}"},
    "cron": "30 2 * * *",
    "zone": "Europe/Berlin",
}
_MOST_PREVIEWED = 100

SchedulePath = Annotated[
    Reference,
    Path(description="The schedule's id, or its name in the workspace.", examples=["nightly"]),
]
CronText = Annotated[str, StringConstraints(max_length=LONGEST_EXPRESSION)]
Every = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_EVERY_SECONDS)]
Zone = Annotated[str, StringConstraints(max_length=64)]
CatchUp = Annotated[int, Field(ge=1, le=MAX_CAUGHT_UP)]
Window = Annotated[int, Field(ge=60, le=MAX_WINDOW_SECONDS)]
Jitter = Annotated[int, Field(ge=0, le=MAX_JITTER_SECONDS)]
Late = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_LATE_SECONDS)]

_CRON = Field(
    default=None,
    description="Five fields, six with the second first, or a nickname such as `@daily`.",
)
_EVERY = Field(default=None, description="Seconds between two fires.")
_AT = Field(default=None, description="When it fires once.")
_POLICIES = Policies()


class NewSchedule(Strict):
    """A schedule to create: one of `task` and `workflow`; one of `cron`, `every_seconds`, `at`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SCHEDULE]})

    name: Name = Field(description="Unique among the workspace's schedules.")
    task: Reference | None = Field(default=None, description="The task's id or name.")
    workflow: Reference | None = Field(default=None, description="The workflow's id or name.")
    input: dict[str, Any] = Field(
        default_factory=dict,
        description="The variables of the task, or the input of the workflow. Texts may hold "
        "expressions over the fire: `${{ fire.date }}`.",
    )
    cron: CronText | None = _CRON
    every_seconds: Every | None = _EVERY
    at: Timestamp | None = _AT
    zone: Zone = Field(default="UTC", description="The IANA time zone of `cron`.")
    overlap: Overlap = Field(
        default=_POLICIES.overlap,
        strict=False,
        description="What happens to a fire while what it has started before has not ended.",
    )
    misfire: Misfire = Field(
        default=_POLICIES.misfire,
        strict=False,
        description="Which fires are made up for that were missed by over a minute.",
    )
    catch_up: CatchUp = Field(
        default=_POLICIES.catch_up, description="How many missed fires `all` makes up for."
    )
    window_seconds: Window = Field(
        default=_POLICIES.window_seconds,
        description="Missed fires older than this are not made up for.",
    )
    jitter_seconds: Jitter = Field(
        default=0, description="Each fire starts up to so many seconds later."
    )
    late_seconds: Late = Field(
        default=_POLICIES.late_seconds,
        description="A fire that starts later than this is reported to webhooks: `schedule.late`.",
    )
    active: bool = Field(default=True, description="False: it is paused.")

    @model_validator(mode="after")
    def _starts_one(self) -> Self:
        if (self.task is None) == (self.workflow is None):
            raise ValueError("name one of these: a task or a workflow")
        return self

    def wanted(self, actor: Actor, services: ApiServices) -> Wanted:
        """Return the schedule to create. Raises NotFoundError for an unknown name."""
        task, workflow = self.task, self.workflow
        target = Target(
            None if task is None else services.tasks.resolve(actor, task),
            None if workflow is None else services.workflows.resolve(actor, workflow),
            self.input,
        )
        return Wanted(
            name=self.name,
            target=target,
            timing=self.timing(),
            policies=self.policies(),
            active=self.active,
        )

    def timing(self) -> Timing:
        """Return when it fires."""
        return Timing(self.cron, self.every_seconds, self.at, self.zone)

    def policies(self) -> Policies:
        """Return what it does with fires that are late or overlap."""
        return Policies(
            self.overlap,
            self.misfire,
            self.catch_up,
            self.window_seconds,
            self.jitter_seconds,
            self.late_seconds,
        )


class ScheduleChange(Strict):
    """What to change of a schedule; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"cron": "0 6 * * MON"}]})

    input: dict[str, Any] | None = None
    cron: CronText | None = _CRON
    every_seconds: Every | None = _EVERY
    at: Timestamp | None = _AT
    zone: Zone | None = None
    overlap: Annotated[Overlap, Field(strict=False)] | None = None
    misfire: Annotated[Misfire, Field(strict=False)] | None = None
    catch_up: CatchUp | None = None
    window_seconds: Window | None = None
    jitter_seconds: Jitter | None = None
    late_seconds: Late | None = None


class Resume(Strict):
    """How to resume a schedule."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"catch_up": True}]})

    catch_up: bool = Field(
        default=False,
        description="Treat the fires of the pause as missed; the policy of the schedule decides.",
    )


class BackfillRange(Strict):
    """A range of time to make up for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"from": "2026-11-01T00:00:00Z", "to": "2026-11-08T00:00:00Z"}]
        }
    )

    start: Timestamp = Field(alias="from", description="The first time that is in it.")
    end: Timestamp = Field(alias="to", description="The first time after it; not in the future.")
    overlap: Overlap = Field(
        default=Overlap.QUEUE_ALL,
        strict=False,
        description="`queue_all`: one after another; `allow`: at once.",
    )
    dry_run: bool = Field(default=False, description="Show the fires, and make none.")


class RunNow(Strict):
    """How to run a schedule by hand."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": True}]})

    force: bool = Field(default=False, description="Start even while an earlier one has not ended.")


@router.post(
    "", status_code=201, summary="Create a schedule", responses=problem_responses(404, 409)
)
def create_schedule(body: NewSchedule, actor: Operator, services: Services) -> wire.Schedule:
    """Let a task or workflow start by itself. Its executions and runs belong to the caller.

    It always starts the current version. The input is checked now and at each fire.
    """
    return views.schedule(services.schedules.create(actor, body.wanted(actor, services)))


@router.get("", response_model=wire.Page[wire.Schedule], summary="List schedules")
def list_schedules(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the schedules of the workspace, the newest first."""
    return paging.answer(views.schedule, services.schedules.find, actor)


@router.get("/{schedule}", summary="Get a schedule")
def get_schedule(schedule: SchedulePath, actor: Caller, services: Services) -> wire.Schedule:
    """Return a schedule with its next fire."""
    return views.schedule(services.schedules.get(actor, schedule))


@router.patch("/{schedule}", summary="Change a schedule", responses=problem_responses(409))
def change_schedule(
    schedule: SchedulePath, body: ScheduleChange, actor: Operator, services: Services
) -> wire.Schedule:
    """Change a schedule. One of `cron`, `every_seconds` and `at` replaces the one that it has.

    With another timing the next fire is after now, whatever was due before.
    """
    given = {name: value for name, value in dict(body).items() if value is not None}
    return views.schedule(services.schedules.change(actor, schedule, given))


@router.delete("/{schedule}", status_code=204, summary="Delete a schedule")
def delete_schedule(schedule: SchedulePath, actor: Operator, services: Services) -> None:
    """Delete a schedule. What it has started is not cancelled, and what waits never starts."""
    services.schedules.delete(actor, schedule)


@router.post("/{schedule}/pause", summary="Pause a schedule")
def pause_schedule(schedule: SchedulePath, actor: Operator, services: Services) -> wire.Schedule:
    """Let a schedule not fire until it is resumed.

    Its fires that wait are skipped; what it has started is not cancelled.
    """
    return views.schedule(services.schedules.pause(actor, schedule))


@router.post("/{schedule}/resume", summary="Resume a schedule")
def resume_schedule(
    schedule: SchedulePath, actor: Operator, services: Services, body: Resume | None = None
) -> wire.Schedule:
    """Let a paused schedule fire again. The fires of the pause are skipped, unless `catch_up`."""
    catch_up = body is not None and body.catch_up
    return views.schedule(services.schedules.resume(actor, schedule, catch_up=catch_up))


@router.post(
    "/{schedule}/backfill",
    summary="Make up for a range of time",
    responses=problem_responses(409),
)
def backfill_schedule(
    schedule: SchedulePath, body: BackfillRange, actor: Operator, services: Services
) -> wire.Backfill:
    """Make the fires of a range of time that have not happened; they start as the caller.

    A time that has fired, by the schedule or an earlier backfill, is left out. Those that were
    skipped are made. They wait, and start right after: with `queue_all` one after another, with
    `allow` at once. `dry_run` shows them and makes none.
    """
    made = services.schedules.backfill(
        actor,
        schedule,
        start=body.start,
        end=body.end,
        overlap=body.overlap,
        dry_run=body.dry_run,
    )
    return views.backfill(made, dry_run=body.dry_run)


@router.post("/{schedule}/run", summary="Run a schedule now", responses=problem_responses(409))
def run_schedule(
    schedule: SchedulePath, actor: Operator, services: Services, body: RunNow | None = None
) -> wire.Fire:
    """Start what a schedule starts, now and as the caller. Its next fire stays as it is.

    The answer is the fire. While an earlier one has not ended, `overlap` decides whether it is
    `started`, `waiting` or `skipped`, unless `force`.
    """
    force = body is not None and body.force
    return views.fire(services.schedules.run(actor, schedule, force=force))


@router.get("/{schedule}/preview", summary="Preview the next fires of a schedule")
def preview_schedule(
    schedule: SchedulePath,
    actor: Caller,
    services: Services,
    count: Annotated[int, Query(ge=1, le=_MOST_PREVIEWED, description="How many fires.")] = 5,
) -> wire.Preview:
    """Return the next fires after now, in UTC and in the zone of the schedule."""
    zone, found = services.schedules.preview(actor, schedule, number=count)
    return views.preview(zone, found)


@router.get(
    "/{schedule}/fires", response_model=wire.Page[wire.Fire], summary="List fires of a schedule"
)
def list_fires(
    schedule: SchedulePath,
    actor: Caller,
    services: Services,
    paging: Paging,
    status: Annotated[FireStatus | None, Query(description="With this status.")] = None,
) -> Response:
    """Return the fires of a schedule, the newest first, and those that did not happen and why."""
    return paging.answer(views.fire, services.schedules.fires, actor, schedule, status=status)
