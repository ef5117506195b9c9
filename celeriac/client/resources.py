"""Agents, tasks, keys, users and Celery tasks."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from celeriac import wire
from celeriac.client.transport import API, Transport, segment
from celeriac.domain.agents import AgentSpec
from celeriac.domain.tasks import TaskSpec
from celeriac.wire import Wire

M = TypeVar("M", bound=Wire)

Spec = Mapping[str, Any]
_PAGE = 100


def pages(
    transport: Transport, model: type[M], path: str, params: Mapping[str, Any] | None = None
) -> Iterator[M]:
    """Yield the items of all pages of a list, reading each page when it is needed."""
    cursor: str | None = None
    while True:
        asked = {"limit": _PAGE, **(params or {}), "cursor": cursor}
        page = transport.get(wire.Page[model], path, asked)  # type: ignore[valid-type]
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _plain(spec: BaseModel | Spec | None) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, BaseModel) else spec


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


class Agents:
    """`client.agents`. An agent is named by its id or, if it is one's own, by its name."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def create(self, name: str, spec: AgentSpec | Spec, *, description: str = "") -> wire.Agent:
        """Make an agent."""
        body = {"name": name, "spec": _plain(spec), "description": description}
        return self._transport.post(wire.Agent, f"{API}/agents", body)

    def get(self, agent: str | UUID) -> wire.Agent:
        """Return an agent."""
        return self._transport.get(wire.Agent, f"{API}/agents/{segment(agent)}")

    def list(self) -> Iterator[wire.Agent]:
        """Yield all agents that one may see, the newest first."""
        return pages(self._transport, wire.Agent, f"{API}/agents")

    def change(
        self,
        agent: str | UUID,
        *,
        spec: AgentSpec | Spec | None = None,
        description: str | None = None,
    ) -> wire.Agent:
        """Change what is given; another `spec` becomes the next version."""
        body = given(spec=_plain(spec), description=description)
        return self._transport.patch(wire.Agent, f"{API}/agents/{segment(agent)}", body)

    def delete(self, agent: str | UUID) -> None:
        """Delete an agent that no task uses; raises ClientError (`conflict`) where one does."""
        self._transport.send("DELETE", f"{API}/agents/{segment(agent)}")


class Tasks:
    """`client.tasks`. A task is named by its id or, if it is one's own, by its name."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def create(
        self,
        name: str,
        agent: str | UUID,
        spec: TaskSpec | Spec | None = None,
        *,
        description: str = "",
        active: bool = True,
    ) -> wire.Task:
        """Make a task for an agent."""
        body = {
            "name": name,
            "agent": str(agent),
            "spec": _plain(spec) or {},
            "description": description,
            "active": active,
        }
        return self._transport.post(wire.Task, f"{API}/tasks", body)

    def get(self, task: str | UUID) -> wire.Task:
        """Return a task."""
        return self._transport.get(wire.Task, f"{API}/tasks/{segment(task)}")

    def list(self, *, active: bool | None = None) -> Iterator[wire.Task]:
        """Yield all tasks that one may see, the newest first."""
        return pages(self._transport, wire.Task, f"{API}/tasks", {"active": active})

    def change(
        self,
        task: str | UUID,
        *,
        agent: str | UUID | None = None,
        spec: TaskSpec | Spec | None = None,
        description: str | None = None,
        active: bool | None = None,
    ) -> wire.Task:
        """Change what is given; another `spec` becomes the next version."""
        body = given(
            agent=None if agent is None else str(agent),
            spec=_plain(spec),
            description=description,
            active=active,
        )
        return self._transport.patch(wire.Task, f"{API}/tasks/{segment(task)}", body)

    def delete(self, task: str | UUID, *, cancel: bool = False) -> None:
        """Delete a task with its budgets; its executions stay.

        Raises ClientError (`conflict`) where some have not ended, unless they are to be cancelled.
        """
        params = {"cancel": "true"} if cancel else None
        self._transport.send("DELETE", f"{API}/tasks/{segment(task)}", params=params)


class CeleryTasks:
    """`client.celery_tasks`: plain Celery tasks, and those behind executions."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def send(
        self,
        name: str,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        idempotency_key: str | None = None,
    ) -> wire.CeleryTask:
        """Send a plain Celery task whose name is on the server's list."""
        body = given(name=name, args=[*args], kwargs=dict(kwargs or {}), queue=queue)
        path = f"{API}/celery-tasks"
        return self._transport.create_work(wire.CeleryTask, path, body, idempotency_key)

    def get(self, task_id: str | UUID) -> wire.CeleryTask:
        """Return how a Celery task stands."""
        return self._transport.get(wire.CeleryTask, f"{API}/celery-tasks/{segment(task_id)}")


class Keys:
    """`client.keys`: API keys."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        role: str | None = None,
        user_id: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> wire.NewApiKey:
        """Make a key; its `token` can be read this once."""
        body = given(
            name=name,
            role=role,
            user_id=None if user_id is None else str(user_id),
            expires_at=None if expires_at is None else expires_at.isoformat(),
        )
        return self._transport.post(wire.NewApiKey, f"{API}/api-keys", body)

    def list(self) -> Iterator[wire.ApiKey]:
        """Yield one's keys, or for an admin everybody's, the newest first."""
        return pages(self._transport, wire.ApiKey, f"{API}/api-keys")

    def revoke(self, key_id: UUID) -> None:
        """Make a key useless for ever."""
        self._transport.send("DELETE", f"{API}/api-keys/{segment(key_id)}")


class Users:
    """`client.users`."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def me(self) -> wire.User:
        """Return the user whose key this is."""
        return self._transport.get(wire.User, f"{API}/me")

    def create(self, name: str, *, role: str = "operator") -> wire.User:
        """Make a user; for admins."""
        return self._transport.post(wire.User, f"{API}/users", {"name": name, "role": role})

    def list(self) -> Iterator[wire.User]:
        """Yield all users, the newest first; for admins."""
        return pages(self._transport, wire.User, f"{API}/users")

    def change(
        self,
        user_id: UUID,
        *,
        role: str | None = None,
        disabled: bool | None = None,
        cancel_executions: bool = False,
    ) -> wire.User:
        """Change a user's role, or disable or enable them; for admins.

        `cancel_executions` also cancels all executions of theirs that have not ended.
        """
        body = given(role=role, disabled=disabled, cancel_executions=cancel_executions or None)
        return self._transport.patch(wire.User, f"{API}/users/{segment(user_id)}", body)
