"""Bulk jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.bulk_actions import BulkAction, BulkOutcome, BulkStatus
from celeriac.domain.executions.states import Status
from celeriac.wire.base import ID, Links, Wire, links
from celeriac.wire.executions import ExecutionSummary, SkippedExecution


class BulkJob(Wire):
    """One action for many executions, which were selected when its preview was made."""

    id: UUID
    workspace_id: UUID
    action: BulkAction
    arguments: dict[str, Any] = Field(
        description="What the action needs, such as the priority.", examples=[{}]
    )
    filter: dict[str, Any] = Field(description="As given.", examples=[{"task": "summarise"}])
    status: BulkStatus = Field(
        description="preview: nobody has started it; pending: the keeper has not begun; running; "
        "completed: each execution has an outcome; stopped: by a person; failed: it could not go "
        "on, see `error`."
    )
    total: int = Field(description="How many executions it has.", examples=[18])
    more: bool = Field(
        description="Whether more executions matched than it has: the newest were selected."
    )
    done: int = Field(description="How many were changed.", examples=[12])
    skipped: int = Field(description="How many were left as they are.", examples=[6])
    failed: int = Field(description="How many could not be changed by an error.", examples=[0])
    remaining: int = Field(description="How many have no outcome.", examples=[0])
    reasons: dict[str, int] = Field(
        description="How many were skipped or failed, by the code of the reason.",
        examples=[{"ended": 6}],
    )
    error: str | None = Field(description="Why it failed.")
    created_by: str = Field(examples=["ada"])
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    stopped_by: str | None
    links: Links = links(
        self="/api/v1/bulk-jobs/{id}",
        items="/api/v1/bulk-jobs/{id}/items",
        new_executions="/api/v1/task-executions?batch_id={id}",
    )


class BulkPreview(BulkJob):
    """What a bulk job would do. Nothing is changed until it is started."""

    expires_at: datetime = Field(description="It can be started until then.")
    statuses: dict[Status, int] = Field(
        description="How many of the newest 10,000 executions have each status.",
        examples=[{"pending": 12, "running": 6}],
    )
    sample: list[ExecutionSummary] = Field(description="The newest ten of the executions.")
    looked_at: int = Field(
        description="How many, of the newest, were checked for `unfit`: up to 100.", examples=[18]
    )
    unfit: list[SkippedExecution] = Field(
        description="Those of the checked executions that would be skipped now, with the reason."
    )
    links: Links = links(self="/api/v1/bulk-jobs/{id}", start="/api/v1/bulk-jobs/{id}/start")


class BulkItem(Wire):
    """What became of one execution of a bulk job."""

    execution_id: UUID
    outcome: BulkOutcome = Field(
        description="done; skipped: the action does not apply to it; failed: by an error."
    )
    code: str | None = Field(
        description="The code of the reason: ended, not_ended, not_found, unchanged, or of a "
        "problem, such as variables_invalid.",
        examples=["ended"],
    )
    message: str | None = Field(
        examples=["The execution is completed; only one that has not ended can be cancelled."]
    )
    new_execution_id: UUID | None = Field(
        description="The new execution of a retry.", examples=[ID]
    )
    links: Links = links(
        execution="/api/v1/task-executions/{execution_id}",
        new_execution="/api/v1/task-executions/{new_execution_id}",
    )
