"""Agents, tasks and documents as HTTP shapes."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from celeriac.domain.agents import AgentSpec
from celeriac.domain.document import Action
from celeriac.domain.tasks import TaskSpec
from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


class Agent(Wire):
    """An agent at its current version."""

    model_config = example(examples.AGENT)

    id: UUID
    owner_id: UUID
    name: str
    description: str
    version: int = Field(description="Counts from 1; each change of `spec` adds one.")
    spec: AgentSpec
    created_at: datetime
    updated_at: datetime
    warnings: list[str] = Field(
        default=[],
        description="After a change: what looks wrong, as the API's machine is set up.",
    )
    links: Links = Field(alias="_links")


class AgentReference(Wire):
    """Which agent does a task."""

    id: UUID
    name: str


class Task(Wire):
    """A task at its current version."""

    model_config = example(examples.TASK)

    id: UUID
    owner_id: UUID
    name: str
    description: str
    active: bool = Field(description="An inactive task takes no new executions.")
    agent: AgentReference
    version: int = Field(description="Counts from 1; each change of `spec` adds one.")
    spec: TaskSpec
    created_at: datetime
    updated_at: datetime
    links: Links = Field(alias="_links")


class FieldChange(Wire):
    """A field that differs."""

    field: str = Field(description="Its path within the resource, as in `spec.limits.memory_mb`.")
    before: Any = Field(description="What is stored; null where the field is not set.")
    after: Any = Field(description="What the document says; null where it says nothing.")


class AppliedResource(Wire):
    """What was done with one resource of the document."""

    kind: Literal["agent", "task", "budget"]
    name: str
    action: Action
    id: UUID | None = Field(description="Null where it would only be created.")
    version: int | None = Field(description="The version that is current now; budgets have none.")
    changes: list[FieldChange]
    warnings: list[str] = Field(
        default=[],
        description="What looks wrong with an agent, as the API's machine is set up.",
    )


class Applied(Wire):
    """What was done, or in a dry run would be done, in the order of the document."""

    model_config = example(examples.APPLIED)

    dry_run: bool
    created: int
    changed: int
    unchanged: int
    items: list[AppliedResource]
