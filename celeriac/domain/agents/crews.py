"""Crews: graphs of agents and tasks, validated before anything runs.

What a crew is made of: agents, tasks, and how the tasks are gone through.

The texts of a crew, which are templates (`celeriac.domain.prompts`).

A crew as a graph: agents, tasks, and the context edges between tasks.

What can be wrong with a crew's graph; each fault names its node and the cure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from celeriac.domain.agents.base import Strict, Word
from celeriac.domain.errors import SchemaInvalidError, TemplateInvalidError, TemplateRenderError
from celeriac.domain.prompts import Budget, compiled
from celeriac.domain.schemas import check_schema
from celeriac.kit.json_types import JsonObject

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
    """A node: one of the crew's tasks. Its texts are templates (`celeriac.domain.prompts`)."""

    id: Word
    description: str = Field(min_length=1, max_length=100_000)
    expected_output: str = Field(min_length=1, max_length=10_000)
    agent: Word | None = None
    """Who does it; left open only where a manager decides."""
    context: NodeIds = ()
    """Edges: the earlier tasks whose outputs this one is given."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema that the output must fit; of the last task, the task's own by default."""


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


MAX_CREW_TEMPLATES = 20_000
"""Words and signs within the tags of all templates of a crew."""

_MAX_REPORTED = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; `node` is its place, as `tasks.write`, or empty for the whole."""

    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message}" if self.node else self.message


@dataclass(frozen=True, slots=True)
class Shape:
    """A crew's parts before anybody has held them against each other."""

    agents: Sequence[CrewAgent]
    tasks: Sequence[CrewTask]
    process: Process
    manager_agent: str | None
    manager_model: str | None


def faults_of(shape: Shape) -> list[Fault]:
    """Return everything that is wrong with a graph, in the order of its nodes; none: it is sound.

    What follows from another fault is left out: edges are judged once all ids are good, and who
    can be reached once there is no cycle. Templates and schemas are another matter
    (`faults_of_content`).
    """
    found = [*_emptiness(shape), *_doubles(shape), *_manager(shape), *_assignments(shape)]
    edges = [*_unknown_context(shape.tasks)]
    if not edges:
        cycle = _cycle(shape.tasks)
        edges = [cycle] if cycle else [*_forward(shape.tasks), *_unreachable(shape.tasks)]
    found += edges
    return found or [*_unused(shape)]


def _emptiness(shape: Shape) -> Iterator[Fault]:
    for name, nodes in (("agents", shape.agents), ("tasks", shape.tasks)):
        if not nodes:
            yield Fault(name, f"the crew has no {name}; give it at least one")


def _doubles(shape: Shape) -> Iterator[Fault]:
    for name, nodes in (("agents", shape.agents), ("tasks", shape.tasks)):
        for node, count in Counter(node.id for node in nodes).items():
            if count > 1:
                yield Fault(f"{name}.{node}", f"{count} {name} have this id; give each its own")


def faults_of_content(agents: Sequence[CrewAgent], tasks: Sequence[CrewTask]) -> list[Fault]:
    """Return what is wrong with the templates and schemas of a crew: the first ten faults.

    May take a second: no work for an event loop.
    """
    return list(islice(chain(_texts(agents, tasks), _schemas(tasks)), _MAX_REPORTED))


def _texts(agents: Sequence[CrewAgent], tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    size = 0
    for place, text in texts_of(agents, tasks):
        try:
            size += compiled(text).size
        except TemplateInvalidError as error:
            yield Fault(place, error.message)
        if size > MAX_CREW_TEMPLATES:
            yield Fault(
                place,
                f"with this one the crew's templates have more than {MAX_CREW_TEMPLATES} words and "
                "signs together; shorten them",
            )
            return


def _schemas(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    for task in tasks:
        if task.output_schema is not None:
            try:
                check_schema(task.output_schema, field="output_schema")
            except SchemaInvalidError as error:
                yield Fault(f"tasks.{task.id}", error.message)


def _manager(shape: Shape) -> Iterator[Fault]:
    given = [name for name in (shape.manager_agent, shape.manager_model) if name is not None]
    if shape.process is Process.SEQUENTIAL:
        if given:
            yield Fault(
                "", "a sequential crew has no manager; leave it out or set process to hierarchical"
            )
        return
    if len(given) != 1:
        yield Fault("", "a hierarchical crew needs a manager_model or a manager_agent, not both")
    if shape.manager_agent is None:
        return
    manager = {agent.id: agent for agent in shape.agents}.get(shape.manager_agent)
    if manager is None:
        yield _unknown("", "manager_agent", shape.manager_agent, "agent", shape.agents)
    elif manager.tools:
        yield Fault(f"agents.{manager.id}", "a manager has no tools; give them to other agents")
    elif len(shape.agents) == 1:
        yield Fault(f"agents.{manager.id}", "a manager needs other agents to delegate to; add one")


def _assignments(shape: Shape) -> Iterator[Fault]:
    known = {agent.id for agent in shape.agents}
    for task in shape.tasks:
        node = f"tasks.{task.id}"
        if task.agent is None:
            if shape.process is Process.SEQUENTIAL:
                yield Fault(node, f"the task has no agent; name one of {_names(shape.agents)}")
        elif task.agent not in known:
            yield _unknown(node, "agent", task.agent, "agent", shape.agents)
        elif task.agent == shape.manager_agent:
            yield Fault(node, f"{task.agent!r} is the manager; name another agent, or none")


def _unknown_context(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    known = {task.id for task in tasks}
    for task in tasks:
        for source in task.context:
            if source not in known:
                yield _unknown(f"tasks.{task.id}", "context", source, "task", tasks)


def _cycle(tasks: Sequence[CrewTask]) -> Fault | None:
    """Return the first cycle, by the path along which outputs would have to flow."""
    context = {task.id: task.context for task in tasks}
    done: set[str] = set()
    for start, sources in context.items():
        path = [start]
        branches = [iter(sources)]
        while branches:
            source = next(branches[-1], None)
            if source is None:
                branches.pop()
                done.add(path.pop())
            elif source in path:
                ring = [*path[path.index(source) :], source]
                return Fault(
                    f"tasks.{source}",
                    f"the tasks wait for each other: {' needs '.join(map(repr, ring))}; "
                    "take one of these out of the other's context",
                )
            elif source not in done:
                path.append(source)
                branches.append(iter(context[source]))
    return None


def _forward(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    place = {task.id: index for index, task in enumerate(tasks)}
    for index, task in enumerate(tasks):
        for source in task.context:
            if place[source] > index:
                yield Fault(
                    f"tasks.{task.id}",
                    f"its context {source!r} comes later in the list, and tasks run in its order; "
                    f"move {source!r} before {task.id!r}",
                )


def _unreachable(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    """Yield tasks whose output reaches the last task, which gives the result, by no path."""
    context: Mapping[str, Iterable[str]] = {task.id: task.context for task in tasks}
    left = [task.id for task in tasks[-1:]]
    reached: set[str] = set()
    while left:
        task_id = left.pop()
        if task_id not in reached:
            reached.add(task_id)
            left.extend(context[task_id])
    for task in tasks:
        if task.id not in reached:
            yield Fault(
                f"tasks.{task.id}",
                f"the task is unreachable: its output gets to the last task, {tasks[-1].id!r}, by "
                f"no path; add {task.id!r} to the context of a later task, or remove it",
            )


def _unused(shape: Shape) -> Iterator[Fault]:
    """Yield agents that no task names and to whom nobody can delegate."""
    named = {task.agent for task in shape.tasks} | {shape.manager_agent}
    chosen = shape.process is Process.HIERARCHICAL and None in {task.agent for task in shape.tasks}
    helpers = any(agent.allow_delegation for agent in shape.agents if agent.id in named)
    if chosen or (helpers and shape.process is Process.SEQUENTIAL):
        return
    for agent in shape.agents:
        if agent.id not in named:
            yield Fault(
                f"agents.{agent.id}",
                "no task names this agent and nobody delegates to it; name it in a task, or "
                "remove it",
            )


def _unknown(
    node: str, field: str, name: str, kind: str, nodes: Sequence[CrewAgent | CrewTask]
) -> Fault:
    return Fault(
        node, f"{field} names {name!r}, but the crew has no such {kind}; it has {_names(nodes)}"
    )


def _names(nodes: Sequence[CrewAgent | CrewTask]) -> str:
    return ", ".join(repr(node.id) for node in nodes) or "none"


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
