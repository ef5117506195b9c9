"""What tools answer: the parts of the API's resources that a model needs, and no more."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.domain.outcome import WaitingFor
from celeriac.domain.states import Status
from celeriac.kit.jsontypes import dumps

MAX_INLINE = 20_000
"""Characters of a result, as JSON, that an answer about its execution holds; longer ones are read
in pieces."""


class TaskBrief(BaseModel):
    """A task in a list."""

    id: UUID
    name: str
    description: str
    agent: str
    active: bool = Field(description="An inactive task takes no new executions.")

    @classmethod
    def of(cls, task: wire.Task) -> Self:
        """Return what a list shows of `task`."""
        return cls(
            id=task.id,
            name=task.name,
            description=task.description,
            agent=task.agent.name,
            active=task.active,
        )


class TaskList(BaseModel):
    """Tasks, the newest first."""

    tasks: list[TaskBrief]
    more: bool = Field(description="Whether there are others that `limit` left out.")


class TaskDetails(TaskBrief):
    """A task with all that is needed to run it."""

    prompt: str = Field(description="The template that the variables are put into.")
    variables_schema: dict[str, Any] = Field(description="JSON Schema of the variables.")
    output_schema: dict[str, Any] | None = Field(description="JSON Schema of the result.")
    hard_seconds: float = Field(description="An attempt is stopped after so long.")
    max_retries: int

    @classmethod
    def of(cls, task: wire.Task) -> Self:
        """Return all of `task`."""
        spec = task.spec
        return cls(
            **TaskBrief.of(task).model_dump(),
            prompt=spec.prompt,
            variables_schema=dict(spec.variables_schema),
            output_schema=None if spec.output_schema is None else dict(spec.output_schema),
            hard_seconds=spec.limits.hard_seconds,
            max_retries=spec.retry.max_retries,
        )


class ExecutionBrief(BaseModel):
    """An execution in a list."""

    id: UUID
    task: str
    status: Status
    created_at: datetime
    completed_at: datetime | None
    duration_seconds: float | None
    error_code: str | None
    cost: float = Field(description="US dollars, where prices are known.")

    @classmethod
    def of(cls, execution: wire.ExecutionSummary) -> Self:
        """Return what a list shows of `execution`."""
        return cls(**_shared(execution), error_code=execution.error_code)


class ExecutionList(BaseModel):
    """Executions, the newest first."""

    executions: list[ExecutionBrief]
    more: bool = Field(description="Whether older ones match; ask with `created_before`.")


class Accepted(BaseModel):
    """An execution that was taken on."""

    execution_id: UUID
    task_id: UUID
    status: Status


class ExecutionState(BaseModel):
    """An execution as it stands."""

    id: UUID
    task: str
    status: Status
    ended: bool = Field(description="Whether it is completed, failed or cancelled for good.")
    result: Any = Field(description="Any JSON value; null until completed, and when too long.")
    result_characters: int | None = Field(
        description=f"Length of the result as JSON; above {MAX_INLINE:,} read it with get_result."
    )
    error_code: str | None
    error_message: str | None
    progress: wire.Progress | None = Field(description="How far the work is, by its own word.")
    waiting_for: WaitingFor | None = Field(
        description="approval: a person must answer (list_approvals); budget; provider_limit."
    )
    waiting_until: datetime | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    cancel_requested_by: str | None
    session_id: UUID | None
    event_count: int = Field(description="Number of the latest event.")
    input_tokens: int
    output_tokens: int
    cost: float = Field(description="US dollars, where prices are known.")

    @classmethod
    def of(cls, execution: wire.Execution) -> Self:
        """Return `execution` as it stands."""
        completed = execution.status is Status.COMPLETED
        length = len(dumps(execution.result)) if completed else None
        return cls(
            **_shared(execution),
            ended=execution.status.terminal,
            result=execution.result if length is not None and length <= MAX_INLINE else None,
            result_characters=length,
            error_code=execution.error_code,
            error_message=execution.error_message,
            progress=execution.progress,
            waiting_for=execution.waiting_for,
            waiting_until=execution.waiting_until,
            attempt=execution.attempt,
            started_at=execution.started_at,
            cancel_requested_by=execution.cancel_requested_by,
            session_id=execution.session_id,
            event_count=execution.event_count,
            input_tokens=execution.input_tokens,
            output_tokens=execution.output_tokens,
        )


class EventPage(BaseModel):
    """Some of an execution's events, in order."""

    events: list[wire.Event]
    next_after: int = Field(description="Send it as `after` for what follows.")
    more: bool = Field(description="Whether there are others already.")


class TextPage(BaseModel):
    """A piece of a long text."""

    text: str
    offset: int
    total_characters: int
    next_offset: int | None = Field(description="Send it as `offset` for what follows.")


def _shared(execution: wire.ExecutionSummary) -> dict[str, Any]:
    return {
        "id": execution.id,
        "task": execution.task_name,
        "status": execution.status,
        "created_at": execution.created_at,
        "completed_at": execution.completed_at,
        "duration_seconds": execution.duration_seconds,
        "cost": execution.cost,
    }
