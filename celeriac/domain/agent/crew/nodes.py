"""What a crew is made of: agents, tasks, and how the tasks are gone through."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from celeriac.domain.agent.base import Strict, Word

ModelName = Annotated[
    str, StringConstraints(pattern=r"^[^/\s]+/\S+$", min_length=3, max_length=200)
]
"""`provider/model`; the provider's address and key come from the settings."""

NodeIds = Annotated[tuple[Word, ...], Field(strict=False, max_length=100)]


class Process(StrEnum):
    """How a crew goes through its tasks."""

    SEQUENTIAL = "sequential"
    """In the order of the list, each by its own agent."""
    HIERARCHICAL = "hierarchical"
    """In the order of the list, each by the manager, who delegates to the agents."""


class CrewAgent(Strict):
    """A node: one of the crew's agents. Its texts are templates, as those of tasks are."""

    id: Word
    role: str = Field(min_length=1, max_length=1_000, examples=["Researcher"])
    goal: str = Field(min_length=1, max_length=10_000)
    backstory: str = Field(default="", max_length=100_000)
    model: ModelName = Field(examples=["local/smollm2", "openai/gpt-5-mini"])
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    tools: NodeIds = ()
    """MCP servers, by the names that an administrator gave them."""
    max_iterations: int = Field(default=20, ge=1, le=1_000)
    """How many steps it may take for one task before it must answer."""
    allow_delegation: bool = False
    """Whether it may hand work to, and question, the crew's other agents."""


class CrewTask(Strict):
    """A node: one of the crew's tasks. Its texts are templates (`celeriac.domain.prompt`)."""

    id: Word
    description: str = Field(min_length=1, max_length=100_000)
    expected_output: str = Field(min_length=1, max_length=10_000)
    agent: Word | None = None
    """Who does it; left open only where a manager decides."""
    context: NodeIds = ()
    """Edges: the earlier tasks whose outputs this one is given."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema that the output must fit; of the last task, the task's own by default."""
