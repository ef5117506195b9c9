"""Requests about agents and tasks."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from celeriac.domain.agents import AgentSpec, Name, Strict, Word
from celeriac.domain.tasks import TaskSpec

Description = Annotated[str, StringConstraints(max_length=2_000)]

Reference = Word
"""An id, or the name of one of the caller's own."""

_AGENT: dict[str, Any] = {
    "name": "writer",
    "description": "Writes short, plain texts.",
    "spec": {
        "runner": "llm",
        "model": "local/smollm2",
        "instructions": "You answer in one short paragraph.",
    },
}
_CREW: dict[str, Any] = {
    "name": "newsroom",
    "spec": {
        "runner": "crewai",
        "crew": {
            "agents": [
                {
                    "id": "researcher",
                    "role": "Researcher",
                    "goal": "Find what is worth knowing about {{ topic }}.",
                    "model": "local/smollm2",
                },
                {
                    "id": "writer",
                    "role": "Writer",
                    "goal": "Write so that everybody understands it.",
                    "model": "local/smollm2",
                },
            ],
            "tasks": [
                {
                    "id": "research",
                    "description": "Name three facts about {{ topic }}.",
                    "expected_output": "Three short sentences.",
                    "agent": "researcher",
                },
                {
                    "id": "article",
                    "description": "Write a short text from these facts.",
                    "expected_output": "One paragraph.",
                    "agent": "writer",
                    "context": ["research"],
                },
            ],
        },
    },
}
_TASK: dict[str, Any] = {
    "name": "summarise",
    "agent": "writer",
    "spec": {
        "prompt": "Summarise in one sentence:\n\n{{ text }}",
        "variables_schema": {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1}},
            "required": ["text"],
        },
        "limits": {"soft_seconds": 55, "hard_seconds": 60},
        "priority": "normal",
    },
}


class NewAgent(Strict):
    """An agent to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [_AGENT, _CREW]})

    name: Name = Field(description="Unique among your agents; it can't be changed later.")
    description: Description = ""
    spec: AgentSpec


class AgentPatch(Strict):
    """What to change on an agent; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "Writes well."}]})

    description: Description | None = None
    spec: AgentSpec | None = Field(
        default=None, description="The whole new specification; it becomes the next version."
    )


class NewTask(Strict):
    """A task to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK]})

    name: Name = Field(description="Unique among your tasks; it can't be changed later.")
    agent: Reference = Field(description="The agent's id, or the name of one of yours.")
    description: Description = ""
    active: bool = True
    spec: TaskSpec = TaskSpec()


class TaskPatch(Strict):
    """What to change on a task; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"active": False}]})

    description: Description | None = None
    active: bool | None = None
    agent: Reference | None = None
    spec: TaskSpec | None = Field(
        default=None, description="The whole new specification; it becomes the next version."
    )
