"""Executions, plain Celery tasks and health as HTTP shapes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import RunOptions, TriggerType
from celeriac.domain.executions.states import CeleryState, SimpleStatus, Status, WaitingFor
from celeriac.wire import examples
from celeriac.wire.base import Dollars, Links, Wire, example


class Progress(Wire):
    """How far the work is, by the agent's own word."""

    done: float
    total: float | None
    note: str | None


_INCLUDED = "Only there if `include` names it."


class ExecutionSummary(Wire):
    """One run of a task, as lists have it. Times are RFC 3339 in UTC, durations in seconds."""

    model_config = example(examples.EXECUTION_SUMMARY)

    id: UUID
    owner_id: UUID
    task_id: UUID
    task_name: str
    status: Status
    trigger_type: TriggerType
    execution_mode: str
    priority: str = Field(description="low, normal, high or critical.")
    queue: str
    variables: dict[str, Any] | None = Field(default=None, description=_INCLUDED)
    result: Any = Field(default=None, description=_INCLUDED)
    truncated: bool = Field(
        description="Whether the result is a text that the model's token limit has cut off."
    )
    error_code: str | None
    error_message: str | None
    error_type: str | None = Field(
        default=None, description="The class of the exception, such as KeyError."
    )
    error_details: dict[str, Any] | None = Field(default=None, description=_INCLUDED)
    attempt: int = Field(description="Attempts begun so far.")
    retry_count: int
    crash_count: int = Field(description="Attempts lost with their worker.")
    celery_task_id: str | None
    worker_hostname: str | None
    origin_id: UUID | None = Field(description="The execution that this one repeats.")
    batch_id: UUID | None
    session_id: UUID | None
    request_id: str | None
    created_at: datetime
    available_at: datetime = Field(description="Not started before this time.")
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None = Field(description="From start to completion.")
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    waiting_for: WaitingFor | None = Field(
        description="What a waiting execution waits for: approval, budget or provider_limit. "
        "Of a running one: what it has asked a person, and waits for where it is."
    )
    waiting_until: datetime | None = Field(description="When it goes on by itself.")
    options: RunOptions = Field(description="What its caller wished for this run.")
    event_count: int = Field(description="Number of the latest event.")
    message_count: int
    tool_call_count: int
    model_call_count: int
    input_tokens: int
    output_tokens: int
    cost: Dollars = Field(description="US dollars, where prices are known.")
    progress: Progress | None
    links: Links = Field(alias="_links")


class Execution(ExecutionSummary):
    """One run of a task. Times are RFC 3339 in UTC, durations in seconds."""

    model_config = example(examples.EXECUTION)

    variables: dict[str, Any]
    result: Any = Field(description="Any JSON value; null until completed.")
    error_details: dict[str, Any] | None = Field(
        description="type, traceback and attempt of the last failure."
    )


class Accepted(Wire):
    """An execution that was taken on: stored, and as a rule already sent to the workers."""

    model_config = example(examples.ACCEPTED)

    execution_id: UUID
    task_id: UUID
    status: Status = Field(
        description="queued as a rule; pending if it is delayed or the broker is away."
    )
    execution_mode: str
    celery_task_id: str | None
    session_id: UUID | None
    links: Links = Field(alias="_links")


class AcceptedBatch(Wire):
    """A batch that was taken on; the ids are in the order of the items."""

    model_config = example(examples.ACCEPTED_BATCH)

    batch_id: UUID
    task_id: UUID
    count: int
    execution_ids: list[UUID]
    links: Links = Field(alias="_links")


class Event(Wire):
    """One entry of an execution's log."""

    model_config = example(examples.EVENT)

    seq: int = Field(description="Counts from 1 within the execution, without gaps.")
    type: EventType
    at: datetime
    attempt: int
    data: dict[str, Any]


class Events(Wire):
    """Some of an execution's events, in order."""

    model_config = example(examples.EVENTS)

    items: list[Event]
    next_after: int | None = Field(
        description="Send it as `after` for what follows; null where there is nothing yet."
    )


class CeleryTaskError(Wire):
    """Why a Celery task failed."""

    type: str | None
    message: str | None
    traceback: str | None


class CeleryTask(Wire):
    """A Celery task as Celery names its state, and in plain words."""

    model_config = example(examples.CELERY_TASK)

    task_id: str
    name: str | None
    status: CeleryState
    simple_status: SimpleStatus = Field(
        description="pending, in_progress, completed, failed or cancelled."
    )
    execution_id: UUID | None = Field(description="The execution that this Celery task runs.")
    result: Any
    error: CeleryTaskError | None
    worker: str | None
    retries: int
    started_at: datetime | None
    completed_at: datetime | None
    links: Links = Field(alias="_links")


class Health(Wire):
    """The process answers."""

    model_config = example(examples.HEALTH)

    status: str
    version: str


class ReadyHealth(Wire):
    """What the API needs, each `ok` or what is wrong with it."""

    model_config = example(examples.READY_HEALTH)

    status: str = Field(description="ok, degraded (works, with less) or unavailable.")
    checks: dict[str, str]


class Worker(Wire):
    """A worker process, as it last reported itself."""

    hostname: str
    pid: int
    pool: str
    slots: int
    running: int
    cpu_percent: float
    memory_bytes: int
    version: str
    queues: list[str] = Field(description="What it listens to; empty where it doesn't say.")
    consuming: bool | None = Field(
        description="Whether it takes messages; null for a worker of an older release."
    )
    messages_dropped: int = Field(
        description="Messages dropped since its start, because they were no tasks."
    )
    unknown_tasks: list[str] = Field(
        description="Names of plain tasks that came and that it doesn't know."
    )
    unknown_tasks_ages: list[float] = Field(
        description="Seconds before `seen_at` at which each of these came last."
    )
    lacks: list[str] = Field(description="What agents need that it does not have.")
    started_at: datetime
    seen_at: datetime


class CeleryHealth(Wire):
    """The live workers and what they do."""

    model_config = example(examples.CELERY_HEALTH)

    status: str = Field(description="ok, or unavailable where no worker takes messages.")
    workers: int
    consuming: int = Field(description="How many of the workers take messages.")
    slots: int
    active: int = Field(description="Executions that run right now.")
    processes: list[Worker]
