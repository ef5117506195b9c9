"""Agents and tasks."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.agent import AgentSpec
from celeriac.domain.task import TaskSpec
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
