"""Workflows, their runs, and the steps and items of runs, as they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.model import StepKind, WorkflowSpec
from celeriac.domain.workflows.states import Compensation, RunStatus, StepStatus
from celeriac.domain.workflows.undo import undone_by
from celeriac.kit.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow with its current specification. Versions count from 1; times are in UTC."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    name: str
    description: str
    version: int
    spec: WorkflowSpec
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class WorkflowVersion:
    """A version of a workflow."""

    id: UUID
    workflow_id: UUID
    version: int
    spec: WorkflowSpec
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A run of a workflow. Times are in UTC."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    workflow_id: UUID
    workflow_name: str
    workflow_version_id: UUID
    version: int
    status: RunStatus
    trigger_type: TriggerType
    priority: int | None
    """Of its executions; None: that of each task."""
    input: JsonObject
    result: JsonValue
    error_code: str | None
    error_message: str | None
    error_step: str | None
    """The step whose failure made the run fail."""
    compensation: Compensation | None
    compensation_run_id: UUID | None
    """The run that retries its failed undo tasks."""
    origin_id: UUID | None
    """The run that it retries or forks."""
    parent_run_id: UUID | None
    """The run of which it is an item of a step."""
    parent_step_no: int | None
    parent_item_no: int | None
    depth: int
    """1, or one more than that of its parent."""
    request_id: str | None
    created_by: str
    created_at: datetime
    deadline_at: datetime | None
    overdue: bool
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    completed_at: datetime | None
    event_seq: int
    limited: bool
    """Whether it was stored with limits: of its document, or of the workspace."""


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step of a run, with the numbers of its items.

    A step that is no map has one item. An item has ended if it is completed, failed or cancelled;
    `remaining` have not, of which `spawned` of `width` were made.
    """

    run_id: UUID
    step_no: int
    """Its place in the document, from 1; that of an undo step is that of its step after all."""
    step: str
    kind: StepKind
    status: StepStatus
    width: int
    spawned: int
    shards_left: int
    round: int
    """Which round of a repeat it is in, from 1; 0 before it has begun."""
    parallel: int | None
    strict: bool
    stopping: bool
    continues: bool
    """Whether its runs of workflows continue those of the run that this one retries."""
    fork_path: str | None
    """The item whose run forks that of an earlier run, and from where: `qualify[3]/enrich`."""
    due_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    error_code: str | None
    error_message: str | None
    remaining: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def undoes(self) -> str | None:
        """The step that an undo step undoes; None for another step."""
        return undone_by(self.step)


@dataclass(frozen=True, slots=True)
class StepItem:
    """An item of a step: an execution, a run of a workflow, or a question."""

    run_id: UUID
    step_no: int
    item_no: int
    """From 0, in the order of the map's list."""
    round: int
    status: str
    """That of its execution or run.

    Of a question: running, completed, denied, failed or cancelled.
    """
    execution_id: UUID | None
    child_run_id: UUID | None
    approval_id: UUID | None
    result: JsonValue
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True, order=True)
class EndPlace:
    """The place of an end among the ends of a run's items."""

    xid: int = 0
    """The number of the transaction that ended the item."""
    step_no: int = 0
    item_no: int = 0


@dataclass(frozen=True, slots=True)
class ItemEnd:
    """The end of an item of a step."""

    place: EndPlace
    step: str
    status: str
    """completed, failed or cancelled."""
    execution_id: UUID | None
    child_run_id: UUID | None


@dataclass(frozen=True, slots=True)
class SettledStep:
    """A step whose results are read. Without a step of this name, the others are None."""

    run_id: UUID
    step_no: int | None
    round: int | None
    status: StepStatus | None


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """Some results of a step in the order of its items; null for an item without one."""

    results: Sequence[JsonValue]
    next_after: int | None
    """The number of the last item; None if there were none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The runs to list; empty and None mean all."""

    workspace_id: UUID | None = None
    workflow_id: UUID | None = None
    status: RunStatus | None = None
    origin_id: UUID | None = None
    parent_run_id: UUID | None = None
    top_level: bool = False
    """Only those that are no item of a step."""
    trigger_type: TriggerType | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class ItemsPage:
    """Some items of a step. `next_after` is where the next ones begin; None at the end."""

    items: Sequence[StepItem]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class StepValue:
    """What expressions see of a settled step."""

    status: StepStatus
    result: JsonValue = None
    results: JsonValue = None
    """Of a map: a list, in the order of its items; null where one has no result."""
    error: JsonValue = None
    errors: JsonValue = None
    """Of a map: the failed items, each with `index`, `code` and `message`."""
