"""The results of the MCP server's tools."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.kit.json_types import dumps
from celeriac.mcp_server.toolbox import View
from celeriac.wire.base import Dollars

MAX_INLINE = 20_000
"""The longest result, in characters of JSON, that `ExecutionState` holds."""


class TaskBrief(View):
    """A task in a list."""

    id: UUID
    name: str
    description: str
    agent: str
    active: bool = Field(description="An inactive task takes no new executions.")


class TaskList(BaseModel):
    """Tasks, newest first."""

    tasks: list[TaskBrief]
    more: bool = Field(description="Whether `limit` left out others.")


class TaskDetails(TaskBrief):
    """A task with everything that is needed to run it."""

    prompt: str = Field(description="The template for the variables.")
    variables_schema: dict[str, Any] = Field(description="JSON Schema of the variables.")
    output_schema: dict[str, Any] | None = Field(description="JSON Schema of the result.")
    hard_seconds: float = Field(description="The time limit of an attempt.")
    max_retries: int


class ExecutionBrief(View):
    """An execution in a list."""

    id: UUID
    task: str
    status: Status
    created_at: datetime
    completed_at: datetime | None
    duration_seconds: float | None
    error_code: str | None
    cost: Dollars = Field(description="US dollars, as far as prices are known.")


class ExecutionList(BaseModel):
    """Executions, newest first."""

    executions: list[ExecutionBrief]
    more: bool = Field(description="Whether older ones match; use `created_before`.")


class Accepted(View):
    """A new execution."""

    execution_id: UUID
    task_id: UUID
    status: Status


class ExecutionState(ExecutionBrief):
    """The current state of an execution."""

    ended: bool = Field(description="Whether it is completed, failed or cancelled.")
    result: Any = Field(description="Any JSON value; null until completed, and if too long.")
    truncated: bool = Field(description="Whether the model's token limit cut the result off.")
    result_characters: int | None = Field(
        description=f"Length of the result as JSON; above {MAX_INLINE:,} use get_result."
    )
    error_message: str | None
    progress: wire.Progress | None = Field(description="The progress that the agent reported.")
    waiting_for: WaitingFor | None = Field(
        description="approval: a person must answer (list_approvals); budget; provider_limit."
    )
    waiting_until: datetime | None
    attempt: int
    started_at: datetime | None
    cancel_requested_by: str | None
    session_id: UUID | None
    event_count: int = Field(description="The number of the latest event.")
    input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, document: object, **computed: Any) -> Self:
        """Return the state of an execution; a long result is left out."""
        assert isinstance(document, wire.Execution)
        completed = document.status is Status.COMPLETED
        length = len(dumps(document.result)) if completed else None
        return super().of(
            document,
            task=document.task_name,
            ended=document.status.terminal,
            result=document.result if length is not None and length <= MAX_INLINE else None,
            result_characters=length,
            **computed,
        )


class WaitedFor(ExecutionState):
    """The state of an execution after a wait."""

    asks: bool = Field(description="Whether it has an open question: see list_approvals.")


class EventPage(BaseModel):
    """A part of an execution's events, in order."""

    events: list[wire.Event]
    next_after: int = Field(description="The value of `after` for the next page.")
    more: bool = Field(description="Whether there is a next page now.")


class TextPage(BaseModel):
    """A part of a long text."""

    text: str
    offset: int
    total_characters: int
    next_offset: int | None = Field(description="The `offset` of the next part.")

    @classmethod
    def of(cls, text: str, offset: int, characters: int) -> Self:
        """Return the part of `text` that begins at `offset`."""
        end = offset + characters
        return cls(
            text=text[offset:end],
            offset=offset,
            total_characters=len(text),
            next_offset=end if end < len(text) else None,
        )


class ApprovalView(View):
    """A question, and its answer if there is one."""

    id: UUID
    execution_id: UUID | None
    workflow_run_id: UUID | None = Field(description="The run whose step asks.")
    step: str | None
    kind: QuestionKind = Field(
        description="tool: may it be called? question: a text. form: a value that fits "
        "answer_schema. budget: may it be exceeded? step: may the workflow run go on?"
    )
    title: str
    tool: str | None
    arguments: dict[str, Any] = Field(
        description="The arguments of the tool call, or what a step shows."
    )
    answer_schema: dict[str, Any] | None
    status: ApprovalStatus
    expires_at: datetime
    on_expiry: OnExpiry = Field(description="What happens if nobody answers in time.")
    approved: bool | None
    value: Any
    note: str | None
    answered_by: str | None


class ApprovalList(BaseModel):
    """Questions, newest first."""

    approvals: list[ApprovalView]
    more: bool = Field(description="Whether `limit` left out others.")


class UsageList(BaseModel):
    """Totals in US dollars: newest days first, otherwise most expensive first."""

    totals: list[wire.UsageTotal]
