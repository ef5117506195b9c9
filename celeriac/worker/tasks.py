"""Celeriac's Celery tasks."""

from uuid import UUID

from celery import Task, current_app, shared_task

from celeriac.adapters.celery_queue import EXECUTE_TASK
from celeriac.domain.executions.model import Message
from celeriac.version import __version__

_NO_LIMIT = 10 * 365 * 86_400
"""Executions have time limits of their own, in every pool; Celery's must not apply first."""


@shared_task(
    bind=True,
    name=EXECUTE_TASK,
    ignore_result=True,
    track_started=False,
    time_limit=_NO_LIMIT,
    soft_time_limit=_NO_LIMIT,
)
def run(self: "Task[..., None]", execution_id: str, attempt: int) -> None:
    """Run one attempt of an execution; duplicate and outdated messages have no effect."""
    message = Message(UUID(execution_id), attempt, str(UUID(self.request.id)))
    current_app.celeriac.process().execute(message)


@shared_task(name="celeriac.tasks.monitoring.ping")
def ping() -> str:
    """Answer `pong`: the broker, a worker and the result backend work together."""
    return "pong"


@shared_task(name="celeriac.tasks.monitoring.health_check")
def health_check() -> dict[str, object]:
    """Return the health of this worker process."""
    return {"version": __version__, **current_app.celeriac.process().health()}
