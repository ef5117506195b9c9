"""The state of the service."""

from datetime import datetime

from pydantic import Field

from celeriac.wire import examples
from celeriac.wire.base import Wire, example


class Health(Wire):
    """The process answers."""

    model_config = example(examples.HEALTH)

    status: str
    version: str


class ReadyHealth(Wire):
    """What the API needs, each `ok` or what is wrong with it."""

    model_config = example(examples.READY_HEALTH)

    status: str = Field(description="ok, degraded (works, with less) or unavailable.")
    checks: dict[str, str]


class Worker(Wire):
    """A worker process, as it last reported itself."""

    hostname: str
    pid: int
    pool: str
    slots: int
    running: int
    cpu_percent: float
    memory_bytes: int
    version: str
    queues: list[str] = Field(description="What it listens to; empty where it doesn't say.")
    consuming: bool | None = Field(
        description="Whether it takes messages; null for a worker of an older release."
    )
    messages_dropped: int = Field(
        description="Messages dropped since its start, because they were no tasks."
    )
    unknown_tasks: list[str] = Field(
        description="Names of plain tasks that came and that it doesn't know."
    )
    started_at: datetime
    seen_at: datetime


class CeleryHealth(Wire):
    """The live workers and what they do."""

    model_config = example(examples.CELERY_HEALTH)

    status: str = Field(description="ok, or unavailable where no worker takes messages.")
    workers: int
    consuming: int = Field(description="How many of the workers take messages.")
    slots: int
    active: int = Field(description="Executions that run right now.")
    processes: list[Worker]
