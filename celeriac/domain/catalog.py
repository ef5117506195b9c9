"""The catalog: the stored agents and tasks, each at its current version."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.domain.agent import AgentSpec
from celeriac.domain.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with its current specification. Versions count from 1; times are in UTC."""

    id: UUID
    owner_id: UUID
    name: str
    description: str
    version: int
    spec: AgentSpec
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its current specification and the agent that does it."""

    id: UUID
    owner_id: UUID
    name: str
    description: str
    active: bool
    agent_id: UUID
    agent_name: str
    version: int
    spec: TaskSpec
    created_at: datetime
    updated_at: datetime
