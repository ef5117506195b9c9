"""Pauses."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.executions.pauses import PauseScope
from celeriac.wire.base import ID, Links, Wire, links


class Pause(Wire):
    """A pause: nothing that it is about begins an attempt until it is resumed."""

    id: UUID
    scope: PauseScope = Field(examples=["queue"])
    queue: str | None = Field(description="The name of the paused queue.", examples=["enrichment"])
    task_id: UUID | None = Field(description="The paused task.")
    task_name: str | None
    workspace_id: UUID | None = Field(
        description="The paused workspace, or that of the paused task, workflow, limit or key.",
        examples=[ID],
    )
    workspace_name: str | None
    worker: str | None = Field(description="The name of the paused worker.")
    workflow_id: UUID | None = Field(description="The paused workflow.")
    workflow_name: str | None
    limit_id: UUID | None = Field(description="The paused limit of the workspace.")
    limit_name: str | None
    key: str | None = Field(description="The paused key of a limit.")
    reason: str = Field(examples=["The supplier's API is down until 14:00."])
    owner_id: UUID = Field(description="Who made it.")
    created_by: str = Field(description="Their name.", examples=["ada"])
    created_at: datetime
    links: Links = links(
        self="/api/v1/pauses/{id}",
        resume="/api/v1/pauses/{id}/resume",
        task="/api/v1/tasks/{task_id}",
        workflow="/api/v1/workflows/{workflow_id}",
        limit="/api/v1/limits/{limit_id}",
    )


class EndedPause(Pause):
    """A pause that has ended."""

    left: int = Field(
        description="How many executions that it had set aside are still to be released, 1,000 at "
        "a time; counted up to 10,000.",
        examples=[0],
    )
