"""What the tools of the MCP server return, and how they read executions."""

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.kit.json_types import dumps
from celeriac.kit.text import clip_values
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import READS, Characters, ExecutionId, Limit, Offset, make_tool
from celeriac.wire.base import Dollars

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
    cost: Dollars = Field(description="US dollars, where prices are known.")

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
    truncated: bool = Field(description="Whether the model's token limit has cut the result off.")
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
    cost: Dollars = Field(description="US dollars, where prices are known.")

    @classmethod
    def of(cls, execution: wire.Execution) -> Self:
        """Return `execution` as it stands."""
        completed = execution.status is Status.COMPLETED
        length = len(dumps(execution.result)) if completed else None
        return cls(
            **_shared(execution),
            ended=execution.status.terminal,
            result=execution.result if length is not None and length <= MAX_INLINE else None,
            truncated=execution.truncated,
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


_PIECE = 20_000
MAX_TEXT = 2_000
"""Characters of one text in an event that are shown."""


def reading_tools(access: Access) -> list[Tool]:
    """Return list_events, get_result and get_report."""

    def list_events(
        ctx: ToolContext,
        execution_id: ExecutionId,
        after: Annotated[int, Field(ge=0, description="Only those numbered above it.")] = 0,
        limit: Limit = 50,
    ) -> EventPage:
        """Read an execution's log: messages, tool calls, model calls, log lines, changes of state.

        Texts of more than 2,000 characters are cut; the report has them all.
        """
        with access.client(ctx) as client:
            found = list(islice(client.executions.events(execution_id, after=after), limit + 1))
        shown = [
            each.model_copy(update={"data": clip_values(each.data, MAX_TEXT)})
            for each in found[:limit]
        ]
        last = shown[-1].seq if shown else after
        return EventPage(events=shown, next_after=last, more=len(found) > limit)

    def get_result(
        ctx: ToolContext,
        execution_id: ExecutionId,
        offset: Offset = 0,
        characters: Characters = _PIECE,
    ) -> TextPage:
        """Read the result of a completed execution as JSON text, piece by piece."""
        with access.client(ctx) as client:
            execution = client.executions.get(execution_id)
        if execution.status is not Status.COMPLETED:
            raise ToolError(
                f"The execution is {execution.status.value}; it has no result. [no_result]\n"
                + (
                    "get_execution shows its error."
                    if execution.status.terminal
                    else "wait_for_execution waits for its end."
                )
            )
        return _piece(dumps(execution.result), offset, characters)

    def get_report(
        ctx: ToolContext,
        execution_id: ExecutionId,
        format: Literal["markdown", "html"] = "markdown",  # noqa: A002 - the API's own word
        offset: Offset = 0,
        characters: Characters = _PIECE,
    ) -> TextPage:
        """Read the report of an execution that has ended, piece by piece.

        It has the result, the timeline, messages, tool calls and costs.
        """
        with access.client(ctx) as client:
            text = client.executions.report(execution_id, format=format)
        return _piece(text, offset, characters)

    return [
        make_tool(list_events, "Read events", READS),
        make_tool(get_result, "Read a long result", READS),
        make_tool(get_report, "Read a report", READS),
    ]


def _piece(text: str, offset: int, characters: int) -> TextPage:
    end = offset + characters
    return TextPage(
        text=text[offset:end],
        offset=offset,
        total_characters=len(text),
        next_offset=end if end < len(text) else None,
    )
