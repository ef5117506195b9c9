"""Groups of failures."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.failure_states import FailureState
from celeriac.wire.base import Links, Wire, links
from celeriac.wire.executions import ExecutionSummary


class FailureGroup(Wire):
    """Failed executions of a task that most likely have the same cause."""

    id: UUID
    workspace_id: UUID
    task_id: UUID
    task_name: str | None = Field(
        description="Null once the task is deleted.", examples=["summarise"]
    )
    title: str = Field(
        description="The class of the error and the first line of its message.",
        examples=["LookupError: no such lead"],
    )
    state: FailureState = Field(
        description="new: nobody has looked at it; known, resolved, muted: set by people; "
        "regressed: it has failed again after it was resolved."
    )
    note: str = Field(description="A text of people.", examples=["Fixed in 2.1."])
    version: int = Field(
        description="Grows with each change of the state and the note.", examples=[1]
    )
    failures: int = Field(description="How many executions have failed so.", examples=[12])
    retried_completed: int = Field(
        description="Of those, how many were retried, and a retry completed.", examples=[2]
    )
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    first_execution_id: UUID = Field(description="The oldest of them. It may be deleted.")
    last_execution_id: UUID = Field(description="The newest of them. It may be deleted.")
    error_code: str | None = Field(
        description="As error_type and error_message, of the newest.", examples=["agent_failed"]
    )
    error_type: str | None = Field(examples=["LookupError"])
    error_message: str | None = Field(
        description="At most 500 characters.", examples=["no such lead"]
    )
    fingerprint: str = Field(
        description="What they have in common; it begins with the version of its rules.",
        examples=["1:5e0f6a2f1c9b7d34"],
    )
    links: Links = links(
        self="/api/v1/failure-groups/{id}",
        executions="/api/v1/task-executions?failure_group={id}",
        task="/api/v1/tasks/{task_id}",
    )


class FailureGroupDetails(FailureGroup):
    """A group of failures with its newest executions."""

    executions: list[ExecutionSummary] = Field(description="The newest ten that are not deleted.")
