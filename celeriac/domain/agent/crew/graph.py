"""A crew as a graph: agents, tasks, and the context edges between tasks."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from celeriac.domain.agent.base import Strict, Word
from celeriac.domain.agent.crew.faults import Fault, Shape, faults_of, faults_of_content
from celeriac.domain.agent.crew.nodes import CrewAgent, CrewTask, ModelName, Process
from celeriac.domain.agent.crew.texts import rendered_agent, rendered_task, texts_of
from celeriac.domain.prompt import Budget, compiled
from celeriac.kit.jsontypes import JsonObject

PROMPT = "prompt"
"""What templates read the task's own prompt as, where no variable has that name."""


class CrewGraph(Strict):
    """A crew whose graph is sound: making one with faults raises ValidationError naming each node.

    `check` judges its templates and schemas too, which takes longer.

    Tasks run in the order of the list; the last one's output is the crew's result, and every
    other task's output must reach it along context edges.
    """

    agents: Annotated[tuple[CrewAgent, ...], Field(strict=False, max_length=50)]
    tasks: Annotated[tuple[CrewTask, ...], Field(strict=False, max_length=100)]
    process: Process = Field(default=Process.SEQUENTIAL, strict=False)
    manager_model: ModelName | None = None
    """Of a hierarchical crew: the model of CrewAI's own manager."""
    manager_agent: Word | None = None
    """Of a hierarchical crew: the agent that manages, instead."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        faults = self.faults()
        if faults:
            raise PydanticCustomError(
                "crew_graph",
                "the crew can't be run: {text}",
                {"text": "; ".join(map(str, faults)), "faults": [str(fault) for fault in faults]},
            )
        return self

    def faults(self) -> list[Fault]:
        """Return what is wrong; none for a graph that was made by validation."""
        return faults_of(
            Shape(self.agents, self.tasks, self.process, self.manager_agent, self.manager_model)
        )

    def check(self) -> list[Fault]:
        """Return what is wrong with the templates and schemas, ten faults at most; none: it runs.

        Not for an event loop: it may take a second.
        """
        return faults_of_content(self.agents, self.tasks)

    @property
    def variables(self) -> frozenset[str]:
        """The names that the crew's templates read."""
        texts = texts_of(self.agents, self.tasks)
        return frozenset().union(*(compiled(text).variables for _, text in texts))

    def render(self, variables: JsonObject, prompt: str = "", budget: Budget | None = None) -> Self:
        """Return the crew with all its texts rendered, together paid for from one budget.

        Raises TemplateRenderError naming the node and the variable.
        """
        if budget is None:
            with Budget() as own:
                return self.render(variables, prompt, own)
        known = {PROMPT: prompt, **variables}
        return self.model_copy(
            update={
                "agents": tuple(rendered_agent(agent, known, budget) for agent in self.agents),
                "tasks": tuple(rendered_task(task, known, budget) for task in self.tasks),
            }
        )
