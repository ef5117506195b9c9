"""Celeriac's Celery tasks; each hands over at once."""

from uuid import UUID

from celery import current_app, shared_task

from celeriac.adapters.celery_queue import EXECUTE_TASK
from celeriac.domain.executions.model import Message
from celeriac.version import __version__

_NO_LIMIT = 10 * 365 * 86_400
"""Executions have limits of their own, kept in every pool; Celery's must not cut in first."""


@shared_task(
    name=EXECUTE_TASK,
    ignore_result=True,
    track_started=False,
    time_limit=_NO_LIMIT,
    soft_time_limit=_NO_LIMIT,
)
def run(execution_id: str, attempt: int) -> None:
    """Run one attempt of an execution; doubles and outdated messages end here without effect."""
    message = Message(UUID(execution_id), attempt)
    current_app.celeriac.process().execute(message)


@shared_task(name="celeriac.tasks.monitoring.ping")
def ping() -> str:
    """Answer `pong`: the broker, a worker and the result backend work together."""
    return "pong"


@shared_task(name="celeriac.tasks.monitoring.health_check")
def health_check() -> dict[str, object]:
    """Return what this worker process says of its health."""
    return {"version": __version__, **current_app.celeriac.process().health()}
