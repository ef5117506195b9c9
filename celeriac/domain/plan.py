"""A plan: one version of a task together with one version of its agent; immutable."""

from dataclasses import dataclass
from uuid import UUID

from pydantic import TypeAdapter

from celeriac.domain.agent import AgentSpec
from celeriac.domain.task import TaskSpec
from celeriac.kit.jsontypes import JsonObject

_AGENT: TypeAdapter[AgentSpec] = TypeAdapter(AgentSpec)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is needed to submit or run an execution, besides its variables."""

    task_id: UUID
    task_name: str
    owner_id: UUID
    task_version_id: UUID
    task: TaskSpec
    agent_version_id: UUID
    agent_name: str
    agent: AgentSpec


def agent_spec(stored: JsonObject) -> AgentSpec:
    """Read an agent's stored specification."""
    return _AGENT.validate_python(stored)
