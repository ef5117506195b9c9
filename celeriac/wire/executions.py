"""Executions, plain Celery tasks and health as HTTP shapes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import CeleryState, Held, SimpleStatus, Status, WaitingFor
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.executions.why import ReasonCode, SubjectKind
from celeriac.wire.base import AT, CELERY_ID, ID, LATER, Dollars, Links, Page, Wire, links


class Progress(Wire):
    """Progress as the agent reports it."""

    done: float
    total: float | None
    note: str | None


_INCLUDED = "Present only if `include` names it."


class WaitingSubject(Wire):
    """What blocks, by its id or name."""

    kind: SubjectKind
    id: str = Field(examples=["task_execution"])


class WaitingReason(Wire):
    """One thing that must come to pass. Times are RFC 3339 in UTC."""

    code: ReasonCode
    text: str = Field(examples=["No worker listens to the queue 'task_execution'."])
    subject: WaitingSubject | None = None
    since: datetime | None = Field(default=None, description="Since when it blocks, if known.")
    until: datetime | None = Field(
        default=None, description="The next time at which it changes by itself."
    )
    count: int | None = Field(
        default=None, description="How many come first, or run: counted up to 1,000."
    )


class WaitingReasons(Wire):
    """Why an execution has not ended yet."""

    status: Status
    text: str = Field(
        description="The first of them, in a sentence.",
        examples=["No worker listens to the queue 'task_execution'."],
    )
    reasons: list[WaitingReason] = Field(
        description="What it waits for, in order; empty if it has ended or is being sent."
    )


class ExecutionSummary(Wire):
    """One run of a task, as in lists. Times are RFC 3339 in UTC, durations in seconds."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    task_id: UUID
    task_name: str = Field(examples=["summarise"])
    status: Status = Field(examples=["completed"])
    trigger_type: TriggerType
    execution_mode: str = Field(examples=["async"])
    priority: str = Field(description="low, normal, high or critical.", examples=["normal"])
    queue: str = Field(examples=["task_execution"])
    variables: dict[str, Any] | None = Field(default=None, description=_INCLUDED)
    result: Any = Field(default=None, description=_INCLUDED)
    truncated: bool = Field(
        description="Whether the result is a text that the model's token limit cut off."
    )
    error_code: str | None
    error_message: str | None
    error_type: str | None = Field(
        default=None, description="The class of the exception, such as KeyError."
    )
    error_details: dict[str, Any] | None = Field(default=None, description=_INCLUDED)
    attempt: int = Field(description="Attempts started so far.")
    retry_count: int = Field(examples=[0])
    crash_count: int = Field(description="Attempts whose worker was lost.", examples=[0])
    celery_task_id: str | None = Field(examples=[CELERY_ID])
    worker_hostname: str | None = Field(examples=["celery@shop-1/4711"])
    origin_id: UUID | None = Field(description="The execution that this one repeats.")
    parent_id: UUID | None = Field(default=None, description="The execution that started this one.")
    root_id: UUID | None = Field(
        default=None, description="The first execution of its tree, if it has a parent."
    )
    workflow_run_id: UUID | None = Field(
        default=None, description="The run of a workflow that has made it as an item of a step."
    )
    step: str | None = Field(default=None, description="The step of that run.")
    item: int | None = Field(
        default=None, description="The item of that step, from 0 in the order of a map's list."
    )
    batch_id: UUID | None
    session_id: UUID | None
    request_id: str | None = Field(examples=["shop-42"])
    created_at: datetime
    available_at: datetime = Field(description="Not started before this time.")
    expires_at: datetime | None = Field(
        default=None, description="It is cancelled, with `expired`, if it has not begun by then."
    )
    queued_at: datetime | None = Field(examples=[AT])
    started_at: datetime | None = Field(examples=[AT])
    completed_at: datetime | None = Field(examples=[LATER])
    duration_seconds: float | None = Field(
        description="From start to completion.", examples=[2.515]
    )
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    waiting_for: WaitingFor | None = Field(
        description="What a waiting execution waits for: approval, budget, provider_limit, "
        "children or sleep. For a "
        "running one, the open question that its attempt waits for."
    )
    waiting_until: datetime | None = Field(description="When it resumes without an answer.")
    held: Held | None = Field(
        default=None,
        description="Why a pending execution may not run yet: time (until available_at), limit "
        "(until a slot of its limits is free), paused, or parallel (until one of its siblings "
        "ends).",
    )
    labels: dict[str, str] = Field(
        description="What it can be found by.", examples=[{"customer": "acme"}]
    )
    limit_keys: list[str] | None = Field(
        default=None, description="The keys of the limits of its task; null without limits."
    )
    waiting_since: datetime | None = Field(
        default=None,
        description="When it began to wait for a worker (pending, queued) or for what waiting_for "
        "names. Null before available_at.",
    )
    options: RunOptions = Field(
        description="The options of this run.", examples=[RunOptions().model_dump(mode="json")]
    )
    event_count: int = Field(description="Number of the latest event.")
    message_count: int
    tool_call_count: int = Field(examples=[0])
    denied_tool_count: int = Field(
        default=0, description="Calls of tools that a rule or a person did not allow.", examples=[0]
    )
    model_call_count: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(
        default=0, description="Of the input tokens, those that the provider had in its cache."
    )
    cache_hit_ratio: float | None = Field(
        default=None, description="cached_tokens of input_tokens, from 0 to 1; null without input."
    )
    cost: Dollars = Field(description="US dollars, of calls with known prices.")
    flags: list[Flag] = Field(
        default=[],
        description="What is worth a look: no_op (completed without a model call, a tool call, a "
        "message or a step, and with an empty result), tools_denied, truncated, silent (runs, and "
        "has had no event for ten minutes).",
    )
    active_at: datetime | None = Field(
        default=None,
        description="Of a running one: when its attempt began, or last stored an event or got an "
        "answer.",
    )
    progress: Progress | None
    links: Links = links(
        self="/api/v1/task-executions/{id}",
        task="/api/v1/tasks/{task_id}",
        session="/api/v1/sessions/{session_id}",
        celery_task="/api/v1/admin/celery-tasks/{celery_task_id}",
        events="/api/v1/task-executions/{id}/events",
        stream="/api/v1/task-executions/{id}/stream",
        logs="/api/v1/task-executions/{id}/logs",
        files="/api/v1/task-executions/{id}/files",
        cancel=None,
        retry="/api/v1/task-executions/{id}/retry",
        model_calls="/api/v1/task-executions/{id}/model-calls",
        budgets="/api/v1/task-executions/{id}/budgets",
        report="/api/v1/task-executions/{id}/report",
        approvals="/api/v1/approvals?execution_id={id}",
        children="/api/v1/task-executions?parent_id={id}",
    )


class SearchWindow(Page[ExecutionSummary]):
    """What one request of a search has found, the newest first."""

    next_cursor: str | None = Field(
        default=None,
        description="Send it as `cursor` to go on with older executions; null if there are none.",
    )
    looked_at: int = Field(description="How many executions this request has looked at.")
    searched_back_to: datetime | None = Field(
        description="When the oldest of these was created; null if none matches the filter."
    )


class Execution(ExecutionSummary):
    """One run of a task. Times are RFC 3339 in UTC, durations in seconds."""

    variables: dict[str, Any] = Field(examples=[{"text": "Celeriac is a root vegetable."}])
    result: Any = Field(
        description="Any JSON value; null until completed.", examples=["A root vegetable."]
    )
    error_details: dict[str, Any] | None = Field(
        description="type, traceback and attempt of the last failure."
    )
    child_counts: dict[str, int] = Field(
        default={},
        description="How many executions it has started itself, by status; with GET of one only.",
    )


class Accepted(Wire):
    """An accepted execution: stored, and as a rule already sent to the workers."""

    execution_id: UUID
    task_id: UUID
    status: Status = Field(
        description="queued as a rule; pending if it is delayed or the broker is unavailable.",
        examples=["queued"],
    )
    execution_mode: str = Field(examples=["async"])
    celery_task_id: str | None = Field(examples=[CELERY_ID])
    session_id: UUID | None
    links: Links = links(
        self="/api/v1/task-executions/{execution_id}",
        task="/api/v1/tasks/{task_id}",
        session="/api/v1/sessions/{session_id}",
        celery_task="/api/v1/admin/celery-tasks/{celery_task_id}",
        events="/api/v1/task-executions/{execution_id}/events",
        stream="/api/v1/task-executions/{execution_id}/stream",
        cancel="/api/v1/task-executions/{execution_id}/cancel",
    )


class AcceptedBatch(Wire):
    """An accepted batch; the ids are in the order of the items."""

    batch_id: UUID
    task_id: UUID
    count: int
    execution_ids: list[UUID]
    links: Links = links(
        self="/api/v1/task-executions?batch_id={batch_id}", task="/api/v1/tasks/{task_id}"
    )


class SkippedExecution(Wire):
    """An execution that could not be retried, and the reason."""

    execution_id: UUID
    code: str = Field(
        description="As in problems: variables_invalid, task_inactive, conflict.",
        examples=["task_inactive"],
    )
    message: str = Field(examples=["The task 'qualify' is inactive; activate it to run it."])


class BulkResult(Wire):
    """The result of a change to the executions that match a filter."""

    dry_run: bool = Field(description="Whether the matches were only counted.")
    affected: int = Field(examples=[1])
    execution_ids: list[UUID] = Field(
        description="The changed executions, running ones included; of a retry, the new ones."
    )
    skipped: list[SkippedExecution] = Field(description="The matches that could not be retried.")
    remaining: int = Field(
        description="How many matches are left, counted up to 10,000.", examples=[0]
    )
    next_cursor: str | None = Field(
        description="Send it as `cursor`, with the same filter, for the rest; null if there is no "
        "rest, and in a dry run."
    )
    batch_id: UUID | None = Field(
        description="The batch of the new executions of a retry.", examples=[ID]
    )
    links: Links = links(executions="/api/v1/task-executions?batch_id={batch_id}")


class Event(Wire):
    """One entry of an execution's log."""

    seq: int = Field(description="Counts from 1 within the execution, without gaps.")
    type: EventType = Field(examples=["started"])
    at: datetime
    attempt: int
    data: dict[str, Any] = Field(examples=[{"worker": "celery@shop-1/4711"}])


class Events(Wire):
    """Some of an execution's events, in order."""

    items: list[Event]
    next_after: int | None = Field(
        description="Send it as `after` for the next events; null if there are none."
    )


class LogLine(Wire):
    """One line of an execution's log, secrets masked."""

    at: datetime
    level: str = Field(examples=["info"])
    service: str = Field(description="api, worker, beat, cli or agent.", examples=["worker"])
    event: str = Field(examples=["execution.picked_up"])
    fields: dict[str, Any] = Field(
        description="Everything else: ids, values, `exception`.", examples=[{"attempt": 1}]
    )


class LogPage(Wire):
    """Some lines of an execution's log, in the order in which they were written."""

    items: list[LogLine]
    next_after: str | None = Field(
        description="Send it as `after` for what follows, also later; null before the first line.",
        examples=["131185-2048"],
    )
    more: bool = Field(description="Whether more was there already.", examples=[False])
    restarted: bool = Field(
        description="Whether the file was rotated since `after`: lines may be missing.",
        examples=[False],
    )
    elsewhere: str | None = Field(
        description="The host of the last worker, whose lines are in a file there and not here; "
        "null if they are here.",
        examples=[None],
    )


class CeleryTaskError(Wire):
    """Why a Celery task failed."""

    type: str | None
    message: str | None
    traceback: str | None


class CeleryTask(Wire):
    """A Celery task, with its state as Celery names it and in plain words."""

    task_id: str = Field(examples=[CELERY_ID])
    name: str | None = Field(examples=["celeriac.tasks.monitoring.ping"])
    status: CeleryState = Field(examples=["SUCCESS"])
    simple_status: SimpleStatus = Field(
        description="pending, in_progress, completed, failed or cancelled.",
        examples=["completed"],
    )
    execution_id: UUID | None = Field(description="The execution that this Celery task runs.")
    args: list[Any] | None = Field(
        default=None,
        description="Its arguments, secrets masked; null if they are not stored.",
        examples=[[]],
    )
    kwargs: dict[str, Any] | None = Field(
        default=None,
        description="Its named arguments, or the execution's variables, secrets masked.",
        examples=[{}],
    )
    result: Any = Field(examples=["pong"])
    error: CeleryTaskError | None
    worker: str | None = Field(examples=["celery@shop-1"])
    retries: int = Field(examples=[0])
    started_at: datetime | None
    completed_at: datetime | None = Field(examples=[LATER])
    links: Links = links(self="/api/v1/celery-tasks/{task_id}")


class Health(Wire):
    """The process answers."""

    status: str = Field(examples=["ok"])
    version: str = Field(examples=["0.1.0"])


class ReadyHealth(Wire):
    """The servers that the API needs, each `ok` or its fault."""

    status: str = Field(description="ok, degraded (works in part) or unavailable.", examples=["ok"])
    checks: dict[str, str] = Field(examples=[{"database": "ok", "schema": "ok", "redis": "ok"}])


class Worker(Wire):
    """A worker process, as it last reported itself."""

    hostname: str = Field(examples=["celery@shop-1"])
    pid: int
    pool: str = Field(examples=["threads"])
    slots: int
    coroutines: int = Field(
        description="How many executions that only wait it may run besides those in its slots.",
        examples=[100],
    )
    running: int
    cpu_percent: float
    memory_bytes: int
    version: str = Field(examples=["0.1.0"])
    queues: list[str] = Field(
        description="The queues that it consumes; empty for a worker of an older release.",
        examples=[["task_execution", "default"]],
    )
    consuming: bool | None = Field(
        description="Whether it consumes messages; null for a worker of an older release.",
        examples=[True],
    )
    messages_dropped: int = Field(
        description="Messages dropped since its start, because they were not tasks.", examples=[0]
    )
    unknown_tasks: list[str] = Field(
        description="Names of received Celery tasks that it doesn't know.", examples=[[]]
    )
    unknown_tasks_ages: list[float] = Field(
        description="For each of them, how many seconds before `seen_at` it was received last.",
        examples=[[]],
    )
    lacks: list[str] = Field(
        description="Messages of errors about what agents need and it doesn't have.", examples=[[]]
    )
    started_at: datetime
    seen_at: datetime
    paused: bool = Field(
        description="Whether a pause is about it: it takes nothing new until it is resumed.",
        examples=[False],
    )


class MaintenanceJob(Wire):
    """The latest run of a job of beat that has ended; stored once a minute, and when it changes."""

    name: str = Field(examples=["dispatch_due"])
    host: str = Field(description="The host of the beat that ran it.", examples=["shop-1"])
    interval_seconds: float = Field(description="The pause between two runs.", examples=[0.5])
    started_at: datetime
    ended_at: datetime
    next_at: datetime = Field(
        description="When the same beat was to run it again. Jobs that run more often than once a "
        "minute have run since."
    )
    done: int = Field(description="How much it did; 0 if it failed.", examples=[3])
    failures: int = Field(description="How often it has failed in a row.", examples=[0])
    error: str | None = Field(description="Why it failed.")
    succeeded_at: datetime | None = Field(description="When it worked last.")
    late: bool = Field(
        description="Whether the next run has not ended after three intervals, and after three "
        "minutes: no beat runs, or the job hangs.",
        examples=[False],
    )


class MaintenanceJobs(Wire):
    """What beat does by itself."""

    jobs: list[MaintenanceJob]


class CeleryHealth(Wire):
    """The live workers and their load."""

    status: str = Field(
        description="ok, or unavailable if no worker consumes messages.", examples=["ok"]
    )
    workers: int
    consuming: int = Field(description="Workers that consume messages.")
    slots: int
    active: int = Field(description="Running executions.")
    processes: list[Worker]
