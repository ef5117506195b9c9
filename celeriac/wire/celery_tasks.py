"""Celery tasks: those behind executions, and plain ones."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.celery_states import CeleryState, SimpleStatus
from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


class CeleryTaskError(Wire):
    """Why a Celery task failed."""

    type: str | None
    message: str | None
    traceback: str | None


class CeleryTask(Wire):
    """A Celery task as Celery names its state, and in plain words."""

    model_config = example(examples.CELERY_TASK)

    task_id: str
    name: str | None
    status: CeleryState
    simple_status: SimpleStatus = Field(
        description="pending, in_progress, completed, failed or cancelled."
    )
    execution_id: UUID | None = Field(description="The execution that this Celery task runs.")
    result: Any
    error: CeleryTaskError | None
    worker: str | None
    retries: int
    started_at: datetime | None
    completed_at: datetime | None
    links: Links = Field(alias="_links")
