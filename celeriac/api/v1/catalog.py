"""Agents and tasks over HTTP, and documents of them and of what starts them."""

from typing import Annotated, Any, ClassVar, Self

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.api.v1.budgets import NewBudget
from celeriac.api.v1.hooks import NewHook
from celeriac.api.v1.limits import NewLimit
from celeriac.api.v1.schedules import NewSchedule
from celeriac.domain import document
from celeriac.domain.agents import AgentSpec
from celeriac.domain.base import Name, Strict
from celeriac.domain.tasks import TaskSpec

agents_router = APIRouter(prefix="/agents", tags=["agents"], route_class=JsonRoute)
tasks_router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=JsonRoute)
apply_router = APIRouter(prefix="/apply", tags=["catalog"], route_class=JsonRoute)

Description = Annotated[str, StringConstraints(max_length=2_000)]
AgentPath = Annotated[
    Reference, Path(description="The agent's id, or the name of one of yours.", examples=["writer"])
]
TaskPath = Annotated[
    Reference,
    Path(description="The task's id, or the name of one of yours.", examples=["summarise"]),
]

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


_DOCUMENT: dict[str, Any] = {
    "agents": [_AGENT],
    "tasks": [_TASK],
    "budgets": [{"task": "summarise", "period": "day", "max_cost": "5.00"}],
}
_NEXT_VERSION = "The whole new specification; it becomes the next version."
_KEPT = "Left out, it stays as it is."
_MAX_ENTRIES = 500


class NewAgent(Strict):
    """An agent to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [_AGENT, _CREW]})

    name: Name = Field(description="Unique among your agents; it can't be changed later.")
    description: Description = ""
    spec: AgentSpec


class AgentPatch(Strict):
    """Changes to an agent; fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "Writes well."}]})

    description: Description | None = None
    spec: AgentSpec | None = Field(default=None, description=_NEXT_VERSION)


class NewTask(Strict):
    """A task to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK]})

    name: Name = Field(description="Unique among your tasks; it can't be changed later.")
    agent: Reference = Field(description="The agent's id, or the name of one of yours.")
    description: Description = ""
    active: bool = True
    spec: TaskSpec = TaskSpec()


class TaskPatch(Strict):
    """Changes to a task; fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"active": False}]})

    description: Description | None = None
    active: bool | None = None
    agent: Reference | None = None
    spec: TaskSpec | None = Field(default=None, description=_NEXT_VERSION)


class AgentEntry(NewAgent):
    """An agent to create or to change."""

    description: Description | None = Field(default=None, description=_KEPT)  # type: ignore[assignment]


class TaskEntry(NewTask):
    """A task to create or to change."""

    description: Description | None = Field(default=None, description=_KEPT)  # type: ignore[assignment]
    active: bool | None = Field(default=None, description=_KEPT)  # type: ignore[assignment]
    spec: TaskSpec | None = Field(  # type: ignore[assignment]
        default=None,
        description=f"The whole specification, with defaults for what it leaves out. {_KEPT}",
    )


class LimitEntry(NewLimit):
    """A limit to create, or of which to change the numbers or the policy."""

    def plain(self) -> document.LimitEntry:
        """Return the entry as services take it."""
        return document.LimitEntry(
            name=self.name, spec=self.spec(), task=self.task, workflow=self.workflow
        )


class ScheduleEntry(NewSchedule):
    """A schedule to create or to change."""

    active: bool | None = Field(default=None, description=_KEPT)  # type: ignore[assignment]

    def plain(self) -> document.ScheduleEntry:
        """Return the entry as services take it."""
        return document.ScheduleEntry(
            name=self.name,
            task=self.task,
            workflow=self.workflow,
            input=self.input,
            timing=self.timing(),
            policies=self.policies(),
            active=self.active,
        )


class HookEntry(NewHook):
    """A hook to create or to change."""

    name: Name = Field(description="Unique in the workspace; it identifies the hook.")
    description: Description | None = Field(default=None, description=_KEPT)  # type: ignore[assignment]
    active: bool | None = Field(default=None, description=_KEPT)
    secret_env: str | None = Field(
        default=None,
        max_length=200,
        description="The environment variable from which clients take `secret`.",
    )

    @model_validator(mode="after")
    def _starts_one(self) -> Self:
        if (self.task is None) == (self.workflow is None):
            raise ValueError("name one of these: a task or a workflow")
        return self


class Document(Strict):
    """The desired state of what is named here; everything else stays as it is."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(json_schema_extra={"examples": [_DOCUMENT]})

    agents: Annotated[list[AgentEntry], Field(max_length=_MAX_ENTRIES, default_factory=list)]
    tasks: Annotated[list[TaskEntry], Field(max_length=_MAX_ENTRIES, default_factory=list)]
    budgets: Annotated[list[NewBudget], Field(max_length=_MAX_ENTRIES, default_factory=list)]
    workflows: Annotated[
        list[dict[str, Any]],
        Field(
            max_length=_MAX_ENTRIES,
            default_factory=list,
            description="Documents of workflows, each with its name in `workflow`.",
        ),
    ]
    limits: Annotated[list[LimitEntry], Field(max_length=_MAX_ENTRIES, default_factory=list)]
    schedules: Annotated[list[ScheduleEntry], Field(max_length=_MAX_ENTRIES, default_factory=list)]
    hooks: Annotated[list[HookEntry], Field(max_length=_MAX_ENTRIES, default_factory=list)]

    def plain(self) -> document.Document:
        """Return the document as services take it."""
        return document.Document(
            agents=[document.AgentEntry(**dict(each)) for each in self.agents],
            tasks=[document.TaskEntry(**dict(each)) for each in self.tasks],
            budgets=[
                document.BudgetEntry(
                    task=each.task, user_id=each.user_id, period=each.period, budget=each.budget()
                )
                for each in self.budgets
            ],
            workflows=self.workflows,
            limits=[each.plain() for each in self.limits],
            schedules=[each.plain() for each in self.schedules],
            hooks=[document.HookEntry(**dict(each)) for each in self.hooks],
        )


@agents_router.post(
    "", status_code=201, summary="Create an agent", responses=problem_responses(409)
)
def create_agent(body: NewAgent, actor: Operator, services: Services) -> wire.Agent:
    """Store an agent at version 1. Its name must be new among your agents."""
    made = services.agents.create(actor, **dict(body))
    return views.agent(made, services.advice.warnings(body.spec))


@agents_router.get("", response_model=wire.Page[wire.Agent], summary="List agents")
def list_agents(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the agents of the workspace, the newest first."""
    return paging.answer(views.agent, services.agents.find, actor)


@agents_router.get("/{agent}", summary="Get an agent")
def get_agent(agent: AgentPath, actor: Caller, services: Services) -> wire.Agent:
    """Return an agent at its current version."""
    return views.agent(services.agents.get(actor, agent))


@agents_router.patch("/{agent}", summary="Change an agent")
def change_agent(
    agent: AgentPath, body: AgentPatch, actor: Operator, services: Services
) -> wire.Agent:
    """Change an agent. Another `spec` becomes its next version, which new executions use."""
    changed = services.agents.change(actor, agent, **dict(body))
    return views.agent(changed, [] if body.spec is None else services.advice.warnings(changed.spec))


@agents_router.delete(
    "/{agent}", status_code=204, summary="Delete an agent", responses=problem_responses(409)
)
def delete_agent(agent: AgentPath, actor: Operator, services: Services) -> None:
    """Delete an agent that no task uses. Its executions stay, and its name is free."""
    services.agents.delete(actor, agent)


@tasks_router.post(
    "", status_code=201, summary="Create a task", responses=problem_responses(404, 409)
)
def create_task(body: NewTask, actor: Operator, services: Services) -> wire.Task:
    """Store a task at version 1. Its prompt and its schemas are checked here."""
    return views.task(services.tasks.create(actor, **dict(body)))


@tasks_router.get("", response_model=wire.Page[wire.Task], summary="List tasks")
def list_tasks(
    actor: Caller,
    services: Services,
    paging: Paging,
    active: Annotated[bool | None, Query(description="Only active, or only inactive ones.")] = None,
) -> Response:
    """Return the tasks of the workspace, the newest first."""
    return paging.answer(views.task, services.tasks.find, actor, active=active)


@tasks_router.get("/{task}", summary="Get a task")
def get_task(task: TaskPath, actor: Caller, services: Services) -> wire.Task:
    """Return a task at its current version."""
    return views.task(services.tasks.get(actor, task))


@tasks_router.patch("/{task}", summary="Change a task")
def change_task(task: TaskPath, body: TaskPatch, actor: Operator, services: Services) -> wire.Task:
    """Change a task. Another `spec` becomes its next version, which new executions use."""
    return views.task(services.tasks.change(actor, task, **dict(body)))


@tasks_router.delete(
    "/{task}", status_code=204, summary="Delete a task", responses=problem_responses(409)
)
def delete_task(
    task: TaskPath,
    actor: Operator,
    shared: Shared,
    services: Services,
    cancel: Annotated[
        bool, Query(description="Cancel its executions that have not ended.")
    ] = False,
) -> None:
    """Delete a task with its budgets. Its executions stay, and its name is free.

    Refused while executions of it have not ended, unless `cancel` is true.
    """
    services.tasks.delete(actor, task, cancel=shared.cancel.all_of_task if cancel else None)


@apply_router.post("", summary="Apply a document", responses=problem_responses(409))
def apply_document(
    body: Document,
    actor: Operator,
    services: Services,
    dry_run: Annotated[bool, Query(description="Return the changes, and write nothing.")] = False,
) -> wire.Applied:
    """Create what is missing and change what differs.

    Agents, tasks, budgets, workflows, limits, schedules and hooks. Hooks, and limits of the whole
    workspace, need the role admin. No secret of a hook is in the answer: rotate it to get one.

    All or nothing; nothing is deleted. The same document again changes nothing. `fields` of a
    problem has every fault of the document.
    """
    outcomes = services.apply(actor, body.plain(), dry_run=dry_run)
    warnings = {each.name: services.advice.warnings(each.spec) for each in body.agents}
    return views.applied(outcomes, warnings, dry_run=dry_run)
