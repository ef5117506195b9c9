"""Workflows and their runs as HTTP shapes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.workflows.limits import SlotState
from celeriac.domain.workflows.model import StepKind, WorkflowSpec
from celeriac.domain.workflows.states import Compensation, RunStatus, StepStatus
from celeriac.wire.base import AT, LATER, Links, Wire, links

EXAMPLE: dict[str, Any] = {
    "input": {"url": "string"},
    "steps": {
        "fetch": {"task": "fetch-page", "with": {"url": "${{ input.url }}"}},
        "brief": {"task": "write-brief", "with": {"text": "${{ steps.fetch.result.text }}"}},
    },
    "returns": "${{ steps.brief.result }}",
}
"""A specification as it is written."""

_SPEC = WorkflowSpec.model_validate(EXAMPLE).model_dump(mode="json")


class Workflow(Wire):
    """A workflow at its current version."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    name: str = Field(examples=["brief"])
    description: str = Field(examples=["Fetches a page and writes a brief of it."])
    version: int = Field(description="Counts from 1; each change of `spec` adds one.")
    spec: WorkflowSpec = Field(examples=[_SPEC])
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/workflows/{id}",
        versions="/api/v1/workflows/{id}/versions",
        run="/api/v1/workflows/{id}/run",
        runs="/api/v1/workflow-runs?workflow={id}",
    )


class WorkflowVersion(Wire):
    """A version of a workflow. It never changes."""

    id: UUID
    workflow_id: UUID
    version: int
    spec: WorkflowSpec = Field(examples=[_SPEC])
    created_at: datetime


class AcceptedRun(Wire):
    """A run that was accepted: it is stored, and begins at once or, if `pending`, in its turn."""

    run_id: UUID
    workflow_id: UUID
    status: RunStatus = Field(examples=["running"])
    links: Links = links(
        self="/api/v1/workflow-runs/{run_id}",
        stream="/api/v1/workflow-runs/{run_id}/stream",
        workflow="/api/v1/workflows/{workflow_id}",
    )


class RunStep(Wire):
    """A step of a run, with the numbers of its items; a step that is no map has one."""

    step: str = Field(examples=["fetch"])
    undoes: str | None = Field(
        description="The step that it undoes, if it is an undo step.", examples=[None]
    )
    kind: StepKind
    status: StepStatus = Field(examples=["completed"])
    items: int = Field(description="How many items it has; 0 before it has begun.", examples=[1])
    remaining: int = Field(description="Items that have not ended.", examples=[0])
    completed: int = Field(examples=[1])
    failed: int = Field(examples=[0])
    cancelled: int = Field(examples=[0])
    round: int = Field(
        description="Which round of a repeat it is in, or was the last; 0 before it has begun.",
        examples=[1],
    )
    started_at: datetime | None = Field(examples=[AT])
    completed_at: datetime | None = Field(examples=[LATER])
    error_code: str | None
    error_message: str | None


class RunSummary(Wire):
    """A run of a workflow, as in lists. Times are RFC 3339 in UTC."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who started it.")
    workflow_id: UUID
    workflow_name: str = Field(examples=["brief"])
    version: int = Field(description="The version of the workflow that it follows.")
    status: RunStatus = Field(examples=["completed"])
    trigger_type: TriggerType
    priority: str | None = Field(description="Of its executions; null: that of each task.")
    error_code: str | None
    error_message: str | None
    error_step: str | None = Field(description="The step whose failure failed the run.")
    compensation: Compensation | None = Field(
        description="What became of the undo tasks of a run that failed or was cancelled."
    )
    compensation_run_id: UUID | None = Field(
        description="The run that retries its failed undo tasks."
    )
    origin_id: UUID | None = Field(description="The run that it retries or forks.")
    parent_run_id: UUID | None = Field(description="The run of which it is an item of a step.")
    depth: int = Field(description="1, or one more than that of its parent.", examples=[1])
    request_id: str | None
    created_by: str = Field(examples=["ada"])
    created_at: datetime
    deadline_at: datetime | None = Field(description="It fails if it has not ended then.")
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    completed_at: datetime | None = Field(examples=[LATER])
    event_count: int = Field(description="The number of its latest event.", examples=[6])
    links: Links = links(
        self="/api/v1/workflow-runs/{id}",
        workflow="/api/v1/workflows/{workflow_id}",
        events="/api/v1/workflow-runs/{id}/events",
        stream="/api/v1/workflow-runs/{id}/stream",
        origin="/api/v1/workflow-runs/{origin_id}",
        compensation_run="/api/v1/workflow-runs/{compensation_run_id}",
        parent="/api/v1/workflow-runs/{parent_run_id}",
        cancel=None,
    )


class RunLimit(Wire):
    """A limit of a run that has not ended."""

    key: str = Field(examples=["crm:ada"])
    max: int = Field(description="How many runs with the key may run.", examples=[3])
    policy: LimitPolicy
    count: LimitCount
    state: SlotState = Field(
        description="Whether it has a slot, waits for one, or has given it back while it waits "
        "for an approval or another run.",
        examples=["held"],
    )
    used: int = Field(description="How many runs have a slot, counted up to `max`.", examples=[1])
    holders: list[UUID] = Field(description="The oldest of them, five at most.")
    limit_id: UUID | None = Field(
        default=None, description="Of a limit of the workspace; null for one of the workflow."
    )
    name: str | None = Field(default=None, description="Its name.", examples=["releases"])


class Run(RunSummary):
    """A run of a workflow with its steps, in the order of the document; undo steps follow."""

    input: dict[str, Any] = Field(examples=[{"url": "https://example.org"}])
    result: Any = Field(examples=["A page about examples."])
    steps: list[RunStep]
    limits: list[RunLimit] = Field(
        default=[], description="Its limits and who has their slots; empty once it has ended."
    )


class RunItem(Wire):
    """An item of a step: an execution, a run of a workflow, or a question to a person."""

    index: int = Field(description="From 0, in the order of the map's list.", examples=[0])
    round: int = Field(examples=[1])
    status: str = Field(
        description="That of its execution or run; deleted if retention has deleted that. Of a "
        "question: running, completed, denied, failed or cancelled.",
        examples=["completed"],
    )
    execution_id: UUID | None
    child_run_id: UUID | None
    approval_id: UUID | None
    result: Any = Field(default=None, description="Present only if `include` names it.")
    error_code: str | None
    error_message: str | None
    links: Links = links(
        execution="/api/v1/task-executions/{execution_id}",
        run="/api/v1/workflow-runs/{child_run_id}",
        approval="/api/v1/approvals/{approval_id}",
    )


class ItemEnded(Wire):
    """The end of an item of a step, in the stream of a run."""

    step: str = Field(examples=["qualify"])
    index: int = Field(description="From 0, in the order of the map's list.", examples=[0])
    status: str = Field(description="completed, failed or cancelled.", examples=["completed"])
    execution_id: UUID | None = Field(description="Null for an item without an execution.")
    child_run_id: UUID | None = Field(
        description="The run that the item is; null if it is none. Its own stream has its items."
    )
    links: Links = links(
        execution="/api/v1/task-executions/{execution_id}",
        run="/api/v1/workflow-runs/{child_run_id}",
    )


class RunItems(Wire):
    """Some items of a step, in their order."""

    items: list[RunItem]
    next_after: int | None = Field(
        description="Send it as `after` for the next ones; null if there are none.", examples=[0]
    )
