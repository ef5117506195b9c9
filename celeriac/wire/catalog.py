"""Agents, tasks and documents as HTTP shapes."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from celeriac.domain.agents import AgentSpec, LlmAgent
from celeriac.domain.document import Action
from celeriac.domain.tasks import TaskSpec
from celeriac.wire.base import Links, Wire, links


class Agent(Wire):
    """An agent at its current version."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    name: str = Field(examples=["writer"])
    description: str = Field(examples=["Writes short, plain texts."])
    version: int = Field(description="Counts from 1; each change of `spec` adds one.")
    spec: AgentSpec = Field(
        examples=[
            LlmAgent(
                model="local/smollm2", instructions="You answer in one short paragraph."
            ).model_dump(mode="json")
        ]
    )
    created_at: datetime
    updated_at: datetime
    warnings: list[str] = Field(
        default=[],
        description="After a change: possible mistakes, as far as the API's machine shows.",
    )
    links: Links = links(self="/api/v1/agents/{id}")


class AgentReference(Wire):
    """The agent of a task."""

    id: UUID
    name: str = Field(examples=["writer"])


class Task(Wire):
    """A task at its current version."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    name: str = Field(examples=["summarise"])
    description: str = Field(examples=[""])
    active: bool = Field(description="An inactive task takes no new executions.", examples=[True])
    agent: AgentReference
    version: int = Field(description="Counts from 1; each change of `spec` adds one.")
    spec: TaskSpec = Field(
        examples=[
            TaskSpec(
                prompt="Summarise in one sentence:\n\n{{ text }}",
                variables_schema={"type": "object", "properties": {"text": {"type": "string"}}},
            ).model_dump(mode="json")
        ]
    )
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/tasks/{id}",
        agent="/api/v1/agents/{agent[id]}",
        execute="/api/v1/tasks/{id}/execute",
        execute_batch="/api/v1/tasks/{id}/execute-batch",
        executions="/api/v1/task-executions?task={id}",
    )


class FieldChange(Wire):
    """A field that differs."""

    field: str = Field(
        description="Its path within the resource, such as `spec.limits.memory_mb`.",
        examples=["spec.temperature"],
    )
    before: Any = Field(description="The stored value; null if the field is not set.")
    after: Any = Field(description="The document's value; null if it has none.", examples=[0.2])


class AppliedResource(Wire):
    """What `apply` did with one resource of the document."""

    kind: Literal["agent", "task", "budget", "workflow", "limit", "schedule", "hook"] = Field(
        examples=["agent"]
    )
    name: str = Field(examples=["writer"])
    action: Action
    id: UUID | None = Field(description="Null if a dry run would create it.")
    version: int | None = Field(description="The current version; null for what has no versions.")
    changes: list[FieldChange]
    warnings: list[str] = Field(
        default=[],
        description="Possible mistakes of an agent, as far as the API's machine shows.",
    )


class Applied(Wire):
    """What `apply` did, or in a dry run would do, in the order of the document."""

    dry_run: bool = Field(examples=[False])
    created: int
    changed: int
    unchanged: int
    items: list[AppliedResource]
