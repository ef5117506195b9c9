"""Requests about plain Celery tasks."""

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from celeriac.domain.agent import Strict
from celeriac.domain.task import QueueName


class EnqueueCeleryTask(Strict):
    """A plain Celery task to send; its name must be on the server's list."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "celeriac.tasks.monitoring.ping"}]}
    )

    name: str = Field(min_length=1, max_length=200)
    args: list[Any] = Field(default_factory=list, max_length=100)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="Default: by the task's route.")
