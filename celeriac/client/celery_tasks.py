"""Plain Celery tasks, and those of executions."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path


class CeleryTasks(Resource):
    """`client.celery_tasks`: plain Celery tasks, and those of executions."""

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
        return self._transport.create_work(
            wire.CeleryTask, path("celery-tasks"), body, idempotency_key
        )

    def get(self, task_id: str | UUID) -> wire.CeleryTask:
        """Return the state of a Celery task."""
        return self._transport.get(wire.CeleryTask, path("celery-tasks", task_id))
