"""Settings of the programs: workers, the keeper, the HTTP server."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from celeriac.settings.readers import Names


class WorkerSettings(BaseSettings):
    """How workers hold and run executions; `CELERIAC_WORKER_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_WORKER_", frozen=True, extra="ignore")

    lease_seconds: float = Field(default=30.0, ge=1)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    event_flush_seconds: float = Field(default=0.1, gt=0)
    database_connections: int = Field(default=8, ge=2)
    stall_seconds: float = Field(default=90.0, ge=1)
    """A worker that takes no messages for so long, although some wait and it has free slots, ends
    itself, so that its supervisor starts another."""
    reload: bool = False
    """End the worker, once what runs has ended, when the code of its agents changes, so that its
    supervisor starts it with the new code; `celeriac up` sets it."""
    warm_runners: bool = False
    """Load the runners' libraries in the background as the worker starts; else the first
    execution of each kind waits for its own (a second or two for language models)."""

    @model_validator(mode="after")
    def _a_lease_outlives_a_heartbeat(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError(
                f"CELERIAC_WORKER_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}) must be at most "
                f"half of CELERIAC_WORKER_LEASE_SECONDS ({self.lease_seconds:g}), or leases run "
                "out between two heartbeats"
            )
        return self


class KeeperSettings(BaseSettings):
    """The housekeeping loop; `CELERIAC_KEEPER_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_KEEPER_", frozen=True, extra="ignore")

    interval_seconds: float = Field(default=0.5, gt=0)
    batch_size: int = Field(default=500, ge=1)
    resend_seconds: float = Field(default=15.0, gt=0)
    """A queued row whose message is in no queue for so long is sent again."""


class ApiSettings(BaseSettings):
    """The HTTP server; `CELERIAC_API_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_API_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    max_body_bytes: int = Field(default=8_000_000, ge=1024)
    max_batch: int = Field(default=10_000, ge=1)
    header_seconds: float = Field(default=20.0, gt=0)
    """The headers of a request must have arrived by then."""
    body_seconds: float = Field(default=60.0, gt=0)
    """The body of a request must have arrived by then, counted from its first reading."""
    max_connections: int = Field(default=4_000, ge=1)
    """More connections at once, per process, are answered with 503."""
    bad_keys_per_minute: int = Field(default=30, ge=1)
    """So many unknown API keys are looked up for one address."""
    database_connections: int = Field(default=10, ge=2)
    celery_task_allow_list: Names = (
        "celeriac.tasks.monitoring.ping",
        "celeriac.tasks.monitoring.health_check",
    )
    """Plain Celery tasks that may be enqueued over HTTP, separated by commas."""
