"""Celery's own settings."""

from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from celeriac.settings.readers import Names


class CelerySettings(BaseSettings):
    """Celery's own settings (REQUIREMENTS A8); `CELERIAC_CELERY_…` sets each of them."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_CELERY_", frozen=True, extra="ignore")

    task_acks_late: bool = True
    task_reject_on_worker_lost: bool = True
    task_track_started: bool = True
    task_time_limit: float = Field(default=60.0, gt=0)
    task_soft_time_limit: float = Field(default=55.0, gt=0)
    worker_prefetch_multiplier: int = Field(default=1, ge=0)
    worker_max_tasks_per_child: int = Field(default=1000, ge=1)
    """After so many messages a child of `prefork` is replaced."""
    worker_max_memory_per_child: int | None = Field(default=None, ge=1)
    """Kilobytes after which a child of `prefork` is replaced."""
    worker_hijack_root_logger: bool = False
    """Without effect: our own pipeline takes the logging over from Celery in any case."""
    worker_soft_shutdown_timeout: float = Field(default=30.0, ge=0)
    """Seconds that a stopping worker lets its executions finish before it hands them back."""
    result_extended: bool = True
    result_expires: int = Field(default=3600, ge=1)
    visibility_timeout: int = Field(default=300, ge=1)
    """Seconds until Redis redelivers an unacknowledged message; doubles are harmless (FACTS)."""
    include: Names = ()
    """Modules with users' own Celery tasks, which every worker loads; separated by commas."""
    enable_utc: bool = True
    timezone: str = "UTC"
    publish_timeout: float = Field(default=1.0, gt=0)
    """Seconds that one publication may block its caller."""

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"{value!r} is no time zone; give an IANA name such as Europe/Berlin"
            raise ValueError(message) from error
        return value

    @model_validator(mode="after")
    def _soft_comes_first(self) -> Self:
        if self.task_soft_time_limit >= self.task_time_limit:
            raise ValueError(
                f"CELERIAC_CELERY_TASK_SOFT_TIME_LIMIT ({self.task_soft_time_limit:g} s) must be "
                f"less than CELERIAC_CELERY_TASK_TIME_LIMIT ({self.task_time_limit:g} s)"
            )
        return self
