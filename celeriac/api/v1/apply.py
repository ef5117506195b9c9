"""`POST /api/v1/apply`: documents of agents, tasks and budgets."""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Operator, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import WRITING, problem_responses
from celeriac.api.v1.budgets import NewBudget
from celeriac.api.v1.schemas.catalog import Description, NewAgent, NewTask
from celeriac.domain import document
from celeriac.domain.agents import Strict
from celeriac.domain.tasks import TaskSpec

_MOST = 500

_DOCUMENT: dict[str, Any] = {
    "agents": [{"name": "writer", "spec": {"runner": "llm", "model": "local/smollm2"}}],
    "tasks": [
        {
            "name": "summarise",
            "agent": "writer",
            "spec": {"prompt": "Summarise in one sentence:\n\n{{ text }}"},
        }
    ],
    "budgets": [{"task": "summarise", "period": "day", "max_cost": "5.00"}],
}
_KEEPS = "Left out, it stays as it is."


class AgentEntry(NewAgent):
    """An agent to make, or to change."""

    description: Description | None = Field(default=None, description=_KEEPS)  # type: ignore[assignment]


class TaskEntry(NewTask):
    """A task to make, or to change."""

    description: Description | None = Field(default=None, description=_KEEPS)  # type: ignore[assignment]
    active: bool | None = Field(default=None, description=_KEEPS)  # type: ignore[assignment]
    spec: TaskSpec | None = Field(  # type: ignore[assignment]
        default=None,
        description="The whole specification, with defaults for what it leaves out. " + _KEEPS,
    )


class Document(Strict):
    """Agents, tasks and budgets as they shall be; what is not named here stays as it is."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(json_schema_extra={"examples": [_DOCUMENT]})

    agents: Annotated[list[AgentEntry], Field(max_length=_MOST, default_factory=list)]
    tasks: Annotated[list[TaskEntry], Field(max_length=_MOST, default_factory=list)]
    budgets: Annotated[list[NewBudget], Field(max_length=_MOST, default_factory=list)]

    def plain(self) -> document.Document:
        """Return it as services take it."""
        return document.Document(
            agents=[
                document.AgentEntry(name=each.name, spec=each.spec, description=each.description)
                for each in self.agents
            ],
            tasks=[
                document.TaskEntry(
                    name=each.name,
                    agent=each.agent,
                    spec=each.spec,
                    description=each.description,
                    active=each.active,
                )
                for each in self.tasks
            ],
            budgets=[
                document.BudgetEntry(
                    task=each.task, user_id=each.user_id, period=each.period, budget=each.budget()
                )
                for each in self.budgets
            ],
        )


router = APIRouter(prefix="/apply", tags=["catalog"], route_class=JsonRoute)


@router.post(
    "",
    operation_id="apply_document",
    summary="Make agents, tasks and budgets as a document says",
    responses=WRITING | problem_responses(409),
)
def apply(
    body: Document,
    actor: Operator,
    services: Services,
    dry_run: Annotated[
        bool, Query(description="Say what would be done, and write nothing.")
    ] = False,
) -> wire.Applied:
    """Create what is missing and change what differs, all or nothing. Nothing is deleted.

    The same document again changes nothing. Whatever is wrong with it is in `fields`.
    """
    outcomes = services.apply(actor, body.plain(), dry_run=dry_run)
    warnings = {each.name: services.advice.warnings(each.spec) for each in body.agents}
    return views.applied(outcomes, warnings, dry_run=dry_run)
