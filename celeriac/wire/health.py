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
    started_at: datetime
    seen_at: datetime


class CeleryHealth(Wire):
    """The live workers and what they do."""

    model_config = example(examples.CELERY_HEALTH)

    status: str = Field(description="ok or unavailable.")
    workers: int
    slots: int
    active: int = Field(description="Executions that run right now.")
    processes: list[Worker]
