"""Agents and tasks."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path
from celeriac.domain.agents import AgentSpec
from celeriac.domain.tasks import TaskSpec

Spec = Mapping[str, Any]


class Agents(Resource):
    """`client.agents`. An agent is named by its id or, if it is yours, by its name."""

    def create(self, name: str, spec: AgentSpec | Spec, *, description: str = "") -> wire.Agent:
        """Create an agent."""
        body = given(name=name, spec=spec, description=description)
        return self._transport.post(wire.Agent, path("agents"), body)

    def get(self, agent: str | UUID) -> wire.Agent:
        """Return an agent."""
        return self._transport.get(wire.Agent, path("agents", agent))

    def list(self) -> Iterator[wire.Agent]:
        """Yield all agents that you may see, the newest first."""
        return self._transport.pages(wire.Agent, path("agents"))

    def change(
        self,
        agent: str | UUID,
        *,
        spec: AgentSpec | Spec | None = None,
        description: str | None = None,
    ) -> wire.Agent:
        """Change what is given. Another `spec` becomes the next version."""
        body = given(spec=spec, description=description)
        return self._transport.patch(wire.Agent, path("agents", agent), body)

    def delete(self, agent: str | UUID) -> None:
        """Delete an agent. Raises ClientError (`conflict`) if a task uses it."""
        self._transport.send("DELETE", path("agents", agent))


class Tasks(Resource):
    """`client.tasks`. A task is named by its id or, if it is yours, by its name."""

    def create(
        self,
        name: str,
        agent: str | UUID,
        spec: TaskSpec | Spec | None = None,
        *,
        description: str = "",
        active: bool = True,
    ) -> wire.Task:
        """Create a task for an agent."""
        body = given(
            name=name, agent=agent, spec=spec or {}, description=description, active=active
        )
        return self._transport.post(wire.Task, path("tasks"), body)

    def get(self, task: str | UUID) -> wire.Task:
        """Return a task."""
        return self._transport.get(wire.Task, path("tasks", task))

    def list(self, *, active: bool | None = None) -> Iterator[wire.Task]:
        """Yield all tasks that you may see, the newest first."""
        return self._transport.pages(wire.Task, path("tasks"), {"active": active})

    def change(
        self,
        task: str | UUID,
        *,
        agent: str | UUID | None = None,
        spec: TaskSpec | Spec | None = None,
        description: str | None = None,
        active: bool | None = None,
    ) -> wire.Task:
        """Change what is given. Another `spec` becomes the next version."""
        body = given(agent=agent, spec=spec, description=description, active=active)
        return self._transport.patch(wire.Task, path("tasks", task), body)

    def delete(self, task: str | UUID, *, cancel: bool = False) -> None:
        """Delete a task with its budgets; its executions stay.

        Raises ClientError (`conflict`) if some have not ended, unless `cancel` is true.
        """
        params = {"cancel": "true"} if cancel else None
        self._transport.send("DELETE", path("tasks", task), params=params)
