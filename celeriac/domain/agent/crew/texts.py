"""The texts of a crew, which are templates (`celeriac.domain.prompt`)."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from celeriac.domain.agent.crew.nodes import CrewAgent, CrewTask
from celeriac.domain.errors import TemplateRenderError
from celeriac.domain.prompt import Budget, compiled
from celeriac.kit.jsontypes import JsonObject

AGENT_TEXTS = ("role", "goal", "backstory")
TASK_TEXTS = ("description", "expected_output")

Node = TypeVar("Node", CrewAgent, CrewTask)


def texts_of(agents: Sequence[CrewAgent], tasks: Sequence[CrewTask]) -> Iterator[tuple[str, str]]:
    """Yield every text with its place, as `tasks.write.description`."""
    for agent in agents:
        for name in AGENT_TEXTS:
            yield f"agents.{agent.id}.{name}", getattr(agent, name)
    for task in tasks:
        for name in TASK_TEXTS:
            yield f"tasks.{task.id}.{name}", getattr(task, name)


def rendered_agent(agent: CrewAgent, variables: JsonObject, budget: Budget) -> CrewAgent:
    """Return `agent` with its texts rendered; raises TemplateRenderError naming the text."""
    return _rendered(agent, "agents", AGENT_TEXTS, variables, budget)


def rendered_task(task: CrewTask, variables: JsonObject, budget: Budget) -> CrewTask:
    """Return `task` with its texts rendered; raises TemplateRenderError naming the text."""
    return _rendered(task, "tasks", TASK_TEXTS, variables, budget)


def _rendered(
    node: Node, kind: str, names: Sequence[str], variables: JsonObject, budget: Budget
) -> Node:
    texts = {}
    for name in names:
        try:
            texts[name] = compiled(getattr(node, name)).render(variables, budget)
        except TemplateRenderError as error:
            raise TemplateRenderError(
                f"The crew's {kind}.{node.id}.{name}: {error.message}",
                field="variables",
                node=f"{kind}.{node.id}",
            ) from error
    return node.model_copy(update=texts)
