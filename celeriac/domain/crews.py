"""Crews: graphs of agents and tasks, validated before anything runs.

Every fault names its node and the cure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import chain, islice
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from celeriac.domain.base import Strict, Word
from celeriac.domain.errors import SchemaInvalidError, TemplateInvalidError, TemplateRenderError
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.domain.schemas import Fault, check_schema
from celeriac.kit.json_types import JsonObject

MAX_CREW_TEMPLATES = 20_000
"""Tokens within the tags of all templates of a crew."""

PROMPT = "prompt"
"""The name of the task's own prompt in templates, unless a variable has that name."""

_MAX_REPORTED = 10

ModelName = Annotated[
    str, StringConstraints(pattern=r"^[^/\s]+/\S+$", min_length=3, max_length=200)
]
"""`provider/model`; the provider's address and key come from the settings."""

NodeIds = Annotated[tuple[Word, ...], Field(strict=False, max_length=100)]


class Process(StrEnum):
    """The order in which a crew does its tasks, and who does them."""

    SEQUENTIAL = "sequential"
    """In the order of the list, each by its own agent."""
    HIERARCHICAL = "hierarchical"
    """In the order of the list, each by the manager, who delegates to the agents."""


class CrewAgent(Strict):
    """A node: one of the crew's agents. Its texts are templates (`celeriac.domain.prompts`)."""

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
    """Whether it may delegate work to the crew's other agents and question them."""


class CrewTask(Strict):
    """A node: one of the crew's tasks. Its texts are templates (`celeriac.domain.prompts`)."""

    id: Word
    description: str = Field(min_length=1, max_length=100_000)
    expected_output: str = Field(min_length=1, max_length=10_000)
    agent: Word | None = None
    """The agent that does it; optional only in a hierarchical crew."""
    context: NodeIds = ()
    """Edges: the earlier tasks whose outputs this one receives."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema of the output; the last task's default is that of the Celeriac task."""


AGENT_TEXTS = ("role", "goal", "backstory")
TASK_TEXTS = ("description", "expected_output")

Node = TypeVar("Node", CrewAgent, CrewTask)


class CrewGraph(Strict):
    """A crew whose graph is valid; validation raises ValidationError naming each faulty node.

    `check` also validates its templates and schemas, which takes longer.

    Tasks run in the order of the list. The last one's output is the crew's result, and every other
    task's output must reach it along context edges.
    """

    agents: Annotated[tuple[CrewAgent, ...], Field(strict=False, max_length=50)]
    tasks: Annotated[tuple[CrewTask, ...], Field(strict=False, max_length=100)]
    process: Process = Field(default=Process.SEQUENTIAL, strict=False)
    manager_model: ModelName | None = None
    """Of a hierarchical crew: the model of CrewAI's own manager."""
    manager_agent: Word | None = None
    """Of a hierarchical crew: the agent that manages, instead."""

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        faults = _faults(self)
        if faults:
            raise PydanticCustomError(
                "crew_graph",
                "the crew can't be run: {text}",
                {"text": "; ".join(map(str, faults)), "faults": [str(fault) for fault in faults]},
            )
        return self

    def check(self) -> list[Fault]:
        """Return the first ten faults of the templates and schemas; none if the crew can run.

        A fault's place is a node, such as `tasks.write`, or empty for the whole crew.
        May take a second: not for an event loop.
        """
        return list(islice(chain(_template_faults(self), _schema_faults(self)), _MAX_REPORTED))

    @property
    def variables(self) -> frozenset[str]:
        """The names that the crew's templates read."""
        return frozenset().union(*(compiled(text).variables for _, text in _texts(self)))

    def render(
        self, variables: JsonObject, prompt: str = "", work: WorkLimit | None = None
    ) -> Self:
        """Return the crew with all its texts rendered; the work counts against one limit.

        Raises TemplateRenderError naming the node and the variable.
        """
        if work is None:
            with WorkLimit() as own:
                return self.render(variables, prompt, own)
        known = {PROMPT: prompt, **variables}
        agents = [_rendered(each, "agents", AGENT_TEXTS, known, work) for each in self.agents]
        tasks = [_rendered(each, "tasks", TASK_TEXTS, known, work) for each in self.tasks]
        return self.model_copy(update={"agents": tuple(agents), "tasks": tuple(tasks)})


def _texts(crew: CrewGraph) -> Iterator[tuple[str, str]]:
    """Yield every text with its place, such as `tasks.write.description`."""
    for agent in crew.agents:
        for name in AGENT_TEXTS:
            yield f"agents.{agent.id}.{name}", getattr(agent, name)
    for task in crew.tasks:
        for name in TASK_TEXTS:
            yield f"tasks.{task.id}.{name}", getattr(task, name)


def _rendered(
    node: Node, kind: str, names: Sequence[str], variables: JsonObject, work: WorkLimit
) -> Node:
    texts = {}
    for name in names:
        try:
            texts[name] = compiled(getattr(node, name)).render(variables, work)
        except TemplateRenderError as error:
            raise TemplateRenderError(
                f"The crew's {kind}.{node.id}.{name}: {error.message}",
                field="variables",
                node=f"{kind}.{node.id}",
            ) from error
    return node.model_copy(update=texts)


def _template_faults(crew: CrewGraph) -> Iterator[Fault]:
    size = 0
    for place, text in _texts(crew):
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


def _schema_faults(crew: CrewGraph) -> Iterator[Fault]:
    for task in crew.tasks:
        if task.output_schema is not None:
            try:
                check_schema(task.output_schema, field="output_schema")
            except SchemaInvalidError as error:
                yield Fault(f"tasks.{task.id}", error.message)


def _faults(crew: CrewGraph) -> list[Fault]:
    """Return all faults of the graph, in the order of its nodes.

    Faults that follow from others are left out: the order of tasks is checked once all ids are
    known, reachability once there is no cycle, and unused agents last.
    """
    found = [*_missing_nodes(crew), *_duplicates(crew), *_manager(crew), *_assignments(crew)]
    found += list(_unknown_context(crew.tasks)) or list(_order(crew.tasks))
    return found or list(_unused(crew))


def _missing_nodes(crew: CrewGraph) -> Iterator[Fault]:
    for name, nodes in (("agents", crew.agents), ("tasks", crew.tasks)):
        if not nodes:
            yield Fault(name, f"the crew has no {name}; give it at least one")


def _duplicates(crew: CrewGraph) -> Iterator[Fault]:
    for name, nodes in (("agents", crew.agents), ("tasks", crew.tasks)):
        for node, count in Counter(node.id for node in nodes).items():
            if count > 1:
                yield Fault(f"{name}.{node}", f"{count} {name} have this id; give each its own")


def _manager(crew: CrewGraph) -> Iterator[Fault]:
    given = [name for name in (crew.manager_agent, crew.manager_model) if name is not None]
    if crew.process is Process.SEQUENTIAL:
        if given:
            yield Fault(
                "", "a sequential crew has no manager; leave it out or set process to hierarchical"
            )
        return
    if len(given) != 1:
        yield Fault("", "a hierarchical crew needs a manager_model or a manager_agent, not both")
    if crew.manager_agent is None:
        return
    manager = {agent.id: agent for agent in crew.agents}.get(crew.manager_agent)
    if manager is None:
        yield _unknown("", "manager_agent", crew.manager_agent, "agent", crew.agents)
    elif manager.tools:
        yield Fault(f"agents.{manager.id}", "a manager has no tools; give them to other agents")
    elif len(crew.agents) == 1:
        yield Fault(f"agents.{manager.id}", "a manager needs other agents to delegate to; add one")


def _assignments(crew: CrewGraph) -> Iterator[Fault]:
    known = {agent.id for agent in crew.agents}
    for task in crew.tasks:
        node = f"tasks.{task.id}"
        if task.agent is None:
            if crew.process is Process.SEQUENTIAL:
                yield Fault(node, f"the task has no agent; name one of {_names(crew.agents)}")
        elif task.agent not in known:
            yield _unknown(node, "agent", task.agent, "agent", crew.agents)
        elif task.agent == crew.manager_agent:
            yield Fault(node, f"{task.agent!r} is the manager; name another agent, or none")


def _unknown_context(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    known = {task.id for task in tasks}
    for task in tasks:
        for source in task.context:
            if source not in known:
                yield _unknown(f"tasks.{task.id}", "context", source, "task", tasks)


def _order(tasks: Sequence[CrewTask]) -> Iterator[Fault]:
    """Yield what is wrong with the order of tasks whose contexts are all known."""
    context = {task.id: task.context for task in tasks}
    place = {task.id: index for index, task in enumerate(tasks)}
    try:
        TopologicalSorter(context).prepare()
    except CycleError as error:
        ring = error.args[1][:0:-1]  # each needs the next
        start = ring.index(min(ring, key=place.__getitem__))
        ring = [*ring[start:], *ring[: start + 1]]
        yield Fault(
            f"tasks.{ring[0]}",
            f"the tasks wait for each other: {' needs '.join(map(repr, ring))}; "
            "take one of these out of the other's context",
        )
        return
    for index, task in enumerate(tasks):
        for source in task.context:
            if place[source] > index:
                yield Fault(
                    f"tasks.{task.id}",
                    f"its context {source!r} comes later in the list, and tasks run in its order; "
                    f"move {source!r} before {task.id!r}",
                )
    yield from _unreachable(tasks, context)


def _unreachable(
    tasks: Sequence[CrewTask], context: Mapping[str, Sequence[str]]
) -> Iterator[Fault]:
    """Yield the tasks whose output does not reach the last task, which gives the result."""
    waiting = [task.id for task in tasks[-1:]]
    reached: set[str] = set()
    while waiting:
        task_id = waiting.pop()
        if task_id not in reached:
            reached.add(task_id)
            waiting.extend(context[task_id])
    for task in tasks:
        if task.id not in reached:
            yield Fault(
                f"tasks.{task.id}",
                f"the task is unreachable: its output gets to the last task, {tasks[-1].id!r}, by "
                f"no path; add {task.id!r} to the context of a later task, or remove it",
            )


def _unused(crew: CrewGraph) -> Iterator[Fault]:
    """Yield agents that no task names and that nobody can delegate to."""
    named = {task.agent for task in crew.tasks} | {crew.manager_agent}
    chosen = crew.process is Process.HIERARCHICAL and None in {task.agent for task in crew.tasks}
    helpers = any(agent.allow_delegation for agent in crew.agents if agent.id in named)
    if chosen or (helpers and crew.process is Process.SEQUENTIAL):
        return
    for agent in crew.agents:
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
