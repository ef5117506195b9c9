"""Schedules and their fires."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.schedules.model import FireKind, FireStatus, SkipReason
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.wire.base import AT, ID, LATER, Links, Wire, links


class Schedule(Wire):
    """When a task or workflow starts by itself."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="As whom it starts; who made it.")
    name: str = Field(examples=["nightly"])
    task_id: UUID | None = Field(examples=[ID])
    task_name: str | None = Field(
        description="Null for a workflow, and if the task was deleted.", examples=["summarise"]
    )
    workflow_id: UUID | None
    workflow_name: str | None
    input: dict[str, Any] = Field(
        description="The variables of the task, or the input of the workflow.",
        examples=[{"topic": "sales"}],
    )
    cron: str | None = Field(examples=["30 2 * * *"])
    every_seconds: int | None
    at: datetime | None
    zone: str = Field(examples=["Europe/Berlin"])
    overlap: Overlap = Field(examples=["skip"])
    misfire: Misfire = Field(examples=["latest"])
    catch_up: int = Field(
        description="How many missed fires `misfire: all` makes up for.", examples=[10]
    )
    window_seconds: int = Field(
        description="Missed fires older than this are not made up for.", examples=[86_400]
    )
    jitter_seconds: int = Field(examples=[0])
    late_seconds: int = Field(
        description="A fire that starts later than this is reported to webhooks: `schedule.late`.",
        examples=[300],
    )
    active: bool = Field(description="False: it is paused.", examples=[True])
    next_fire_at: datetime | None = Field(
        description="Null after the last one. Of a paused one: the first that it will have missed.",
        examples=[AT],
    )
    due_at: datetime | None = Field(description="The same with jitter.", examples=[AT])
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/schedules/{id}",
        fires="/api/v1/schedules/{id}/fires",
        preview="/api/v1/schedules/{id}/preview",
        workflow="/api/v1/workflows/{workflow_id}",
        task="/api/v1/tasks/{task_id}",
    )


class Fire(Wire):
    """A fire of a schedule that has happened, or some in a row that have not."""

    id: UUID
    schedule_id: UUID
    kind: FireKind = Field(examples=["scheduled"])
    scheduled_at: datetime = Field(description="Without jitter; of several, the first one's.")
    owner_id: UUID = Field(description="As whom it starts.")
    overlap: Overlap = Field(description="The policy that decided about it.", examples=["skip"])
    status: FireStatus = Field(
        description="waiting: it starts when what the schedule has started before has ended.",
        examples=["started"],
    )
    reason: SkipReason | None = Field(
        description="Why it was skipped. missed: it was late; overlap: an earlier one had not "
        "ended; paused; deleted: the schedule was deleted while it waited; refused: the task or "
        "workflow could not be started.",
    )
    error: str | None = Field(description="Why it was refused.")
    count: int = Field(description="How many fires this is.", examples=[1])
    last_at: datetime | None = Field(description="Of several, the last one's.")
    execution_id: UUID | None = Field(examples=[ID])
    run_id: UUID | None
    started_at: datetime | None = Field(examples=[LATER])
    created_at: datetime = Field(description="When it was decided about.")
    links: Links = links(
        schedule="/api/v1/schedules/{schedule_id}",
        execution="/api/v1/task-executions/{execution_id}",
        run="/api/v1/workflow-runs/{run_id}",
    )


class PreviewedFire(Wire):
    """A fire to come."""

    at: datetime = Field(description="In UTC.", examples=[AT])
    local: str = Field(
        description="In the zone of the schedule.", examples=["2026-11-22T10:30:00.125000+01:00"]
    )
    starts_at: datetime = Field(description="With jitter, in UTC.", examples=[LATER])


class Preview(Wire):
    """The next fires of a schedule."""

    zone: str = Field(examples=["Europe/Berlin"])
    fires: list[PreviewedFire]


class Backfill(Wire):
    """The fires of a range of time that have not happened."""

    dry_run: bool = Field(description="Whether nothing was made.", examples=[False])
    fires: list[datetime] = Field(
        description="The times to make up for, in order.", examples=[[AT]]
    )
    count: int = Field(description="How many they are.", examples=[1])
    already: int = Field(description="Times of the range that have fired, or wait.", examples=[3])
    until: datetime = Field(
        description="The end of the range, or the first time about which the schedule itself has "
        "to decide.",
        examples=[LATER],
    )
