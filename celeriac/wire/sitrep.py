"""The situation report."""

from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from pydantic import Field

from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.sitrep import Level, SitrepScope, TaskKind
from celeriac.wire.base import AT, CELERY_ID, LATER, Wire

T = TypeVar("T")


class SitrepProblem(Wire):
    """Something that is wrong, or worth knowing."""

    level: Level = Field(description="critical, warning or info.", examples=["critical"])
    code: str = Field(
        description="Stable across releases; docs/runbook.md has a section for each.",
        examples=["no_worker_for_queue"],
    )
    text: str = Field(
        examples=[
            "No worker listens to the queue enrichment: 12 executions wait, the oldest for an hour."
        ]
    )
    cure: str = Field(examples=["Start one: `celeriac worker -Q enrichment`."])
    link: str = Field(
        description="The section of the runbook.", examples=["docs/runbook.md#no-worker-for-queue"]
    )


class SitrepSection(Wire, Generic[T]):
    """The answer of one source: `ok` false says that it could not be asked."""

    ok: bool = Field(examples=[True])
    as_of: datetime | None = Field(
        description="When the data was read; null if it never was.", examples=[AT]
    )
    age_seconds: float | None = Field(examples=[0.2])
    data: T | None = Field(description="The last-known data; null if there is none.")
    error: str | None = Field(description="Why it could not be asked.")


class SitrepTotals(Wire):
    """Figures of executions and plain Celery tasks that ended; times are those of executions."""

    completed: int
    failed: int
    cancelled: int
    success_rate: float | None = Field(
        description="The share of completed ones among completed and failed, from 0 to 1; null "
        "without any.",
        examples=[0.98],
    )
    per_minute: float | None = Field(description="Ends per minute, in a window.")
    seconds: float | None = Field(description="The length of the window.")
    average_wait_seconds: float | None
    average_run_seconds: float | None
    wait_p95_seconds: float | None
    run_p95_seconds: float | None
    behind_seconds: float | None = Field(
        description="The age of the oldest end that is not counted yet; null if all are."
    )
    no_ops: int = Field(default=0, description="Those that completed and had done nothing.")


class SitrepEnds(Wire):
    """How many plain Celery tasks ended."""

    completed: int
    failed: int
    cancelled: int = Field(description="Revoked or expired.")


class SitrepPlainTasks(Wire):
    """Plain Celery tasks, as worker processes reported with their last heartbeats."""

    totals: SitrepEnds = Field(description="Of all time.")
    window: SitrepEnds = Field(description="Of the last minutes.")
    running: int


class SitrepWaitingTasks(Wire):
    """How many messages of a plain Celery task are in a queue."""

    queue: str = Field(examples=["default"])
    name: str = Field(
        description="Celery's name; `other` where the message names none.", examples=["shop.mail"]
    )
    count: int


class SitrepPlainWaiting(Wire):
    """Plain Celery tasks in the broker's queues, which no worker has taken yet."""

    count: int = Field(description="Of at most 500 messages of each queue.")
    capped: bool = Field(description="Whether there are messages that were not looked at.")
    tasks: list[SitrepWaitingTasks] = Field(
        description="The most frequent first, at most 100: for administrators, empty for others."
    )


class SitrepWaiting(Wire):
    """How many executions wait for one reason."""

    reason: str = Field(
        description="due, sent, delayed, limit, paused, parallel, approval, budget, "
        "provider_limit, children, child, sleep.",
        examples=["approval"],
    )
    count: int
    capped: bool = Field(description="Whether there are more than `count`.")
    oldest_seconds: float | None


class RecentTask(Wire):
    """An execution or a plain Celery task."""

    task_id: str = Field(
        description="The execution's id, or Celery's id of the task.", examples=[CELERY_ID]
    )
    type: TaskKind = Field(examples=["celery"])
    name: str = Field(examples=["Health Check"])
    status: SimpleStatus | None = Field(
        description="null if the result backend could not be asked, or if the worker that began "
        "it does not report.",
        examples=["completed"],
    )
    description: str = Field(
        examples=["Celery task celeriac.tasks.monitoring.health_check, sent at 2026-11-22 09:30:00"]
    )
    started_at: datetime | None
    completed_at: datetime | None = Field(examples=[LATER])
    duration_seconds: float | None
    queue: str | None = Field(
        default=None, description="null if no worker has recorded it.", examples=["default"]
    )
    error_message: str | None = Field(
        description="At most 200 characters, secrets masked.", examples=[None]
    )


class RecentTasks(Wire):
    """A page of recent tasks, the newest first."""

    items: list[RecentTask]
    next_cursor: UUID | None = Field(description="Send it as `cursor` for the next page.")


class SitrepWorker(Wire):
    """A worker process."""

    hostname: str = Field(examples=["celery@shop-1"])
    pid: int
    status: str = Field(
        description="live, paused, not_consuming, or silent: it stopped reporting.",
        examples=["live"],
    )
    queues: list[str] = Field(examples=[["default", "task_execution"]])
    slots: int
    running: int
    version: str = Field(examples=["0.1.0"])
    started_at: datetime
    seen_at: datetime


class SitrepQueue(Wire):
    """What waits in a queue for a worker, and who listens to it."""

    queue: str = Field(examples=["enrichment"])
    depth: int
    capped: bool = Field(description="Whether there are more than `depth`.")
    oldest_seconds: float | None = Field(description="The age of the oldest that waits.")
    workers: int = Field(description="Live worker processes that listen to it.")
    slots: int
    paused: bool
    paused_reason: str | None


class PeriodicTask(Wire):
    """A schedule of the workspace, or a maintenance job of the system."""

    name: str = Field(examples=["nightly-report"])
    kind: str = Field(description="schedule or maintenance.", examples=["schedule"])
    active: bool = Field(examples=[True])
    timing: str = Field(examples=["0 3 * * * (Europe/Berlin)"])
    last_run_at: datetime | None
    last_status: str | None = Field(examples=["completed"])
    last_error: str | None = Field(examples=[None])
    next_run_at: datetime | None
    late_seconds: float | None = Field(description="How late the next run is; null if it isn't.")


class SitrepAttention(Wire):
    """What waits for people."""

    approvals: int = Field(description="Open questions, at most 1,000.")
    approvals_capped: bool
    oldest_approval_seconds: float | None
    regressed: int = Field(
        default=0, description="Groups of failures that failed again after they were resolved."
    )
    regressed_seconds: float | None = Field(
        default=None, description="How long ago the latest of these failures was."
    )
    stuck_jobs: int = Field(
        default=0, description="Bulk jobs of which no batch has been done for two minutes."
    )
    stuck_jobs_seconds: float | None = Field(
        default=None, description="For how long they have stood still; null without any."
    )
    silent: int = Field(
        default=0, description="Running executions that have had no event for ten minutes."
    )
    silent_seconds: float | None = Field(
        default=None, description="The longest of these silences; null without any."
    )


class Sitrep(Wire):
    """The situation: what is wrong, what waits, what runs, and what has ended lately."""

    level: Level = Field(description="well, warning or critical.", examples=["critical"])
    headline: str = Field(
        description="One sentence for people.",
        examples=[
            "No worker listens to the queue enrichment: 12 executions wait, the oldest for an hour."
        ],
    )
    scope: SitrepScope
    as_of: datetime
    problems: list[SitrepProblem] = Field(
        description="The worst first, then the oldest; at most twenty of a kind."
    )
    total_tasks: int | None = Field(
        description="All executions and plain Celery tasks, ended or not; null if it is not known."
    )
    active_tasks: int | None = Field(description="Running now; at most 1,001 are counted.")
    completed_tasks: int | None
    failed_tasks: int | None
    pending_tasks: int | None = Field(description="Not begun, or waiting for something.")
    success_rate: float | None = Field(
        description="The share of completed ones among completed and failed, from 0 to 1.",
        examples=[0.98],
    )
    capped: bool = Field(description="Whether more are active or pending than were counted.")
    totals: SitrepSection[SitrepTotals] = Field(description="Of all time.")
    window: SitrepSection[SitrepTotals] = Field(description="Of the last minutes.")
    plain_tasks: SitrepSection[SitrepPlainTasks] = Field(
        description="The part of plain Celery tasks in these figures. They belong to no workspace: "
        "for the instance, and for the workspace whose executions Celery tasks start "
        "(CELERIAC_CALLS_USER); null for others, whose figures are those of executions."
    )
    plain_waiting: SitrepSection[SitrepPlainWaiting] = Field(
        description="Plain Celery tasks that wait in Celeriac's queues and in those that workers "
        "listen to, for those who see `plain_tasks`. `ok` is false with RabbitMQ, which does not "
        "show them."
    )
    waiting: SitrepSection[list[SitrepWaiting]]
    recent_tasks: SitrepSection[RecentTasks] = Field(
        description="Of the workspace; in the report of the instance also plain Celery tasks that "
        "were not sent over HTTP."
    )
    workers: SitrepSection[list[SitrepWorker]] = Field(description="Of the instance.")
    queues: SitrepSection[list[SitrepQueue]] = Field(
        description="At most 100, the one with the oldest that waits first."
    )
    periodic_tasks: SitrepSection[list[PeriodicTask]] = Field(
        description="The schedules of the workspace, the newest first, and the system's jobs."
    )
    attention: SitrepSection[SitrepAttention]
    broker: SitrepSection[dict[str, int]] = Field(
        description="Messages in the broker's queues, by queue: for administrators, null for "
        "others."
    )
