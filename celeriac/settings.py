"""Settings: frozen, grouped, and the only reader of the environment.

Standard names (`DATABASE_URL`, `REDIS_URL`, `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND`) are
honoured as they are; everything else is `CELERIAC_…`. Documented in docs/configuration.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from celeriac.domain.errors import ConfigurationError
from celeriac.kit.jsontypes import loads
from celeriac.kit.urls import with_database

_SECRET_CHARACTERS = 32
_MISSING = (
    "{} is not set. Set it to your server, or start the embedded servers with `celeriac up`, "
    "which tells the other commands in this directory where they are."
)


def _names(value: Any) -> Any:
    """Read names from a variable: `a,b` or `["a", "b"]`."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from error


_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class ProviderSettings(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    api_key: SecretStr = SecretStr("none")


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


class WorkerSettings(BaseSettings):
    """How workers hold and run executions; `CELERIAC_WORKER_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_WORKER_", frozen=True, extra="ignore")

    lease_seconds: float = Field(default=30.0, ge=1)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    event_flush_seconds: float = Field(default=0.1, gt=0)
    database_connections: int = Field(default=8, ge=2)
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
    database_connections: int = Field(default=10, ge=2)
    celery_task_allow_list: _Names = (
        "celeriac.tasks.monitoring.ping",
        "celeriac.tasks.monitoring.health_check",
    )
    """Plain Celery tasks that may be enqueued over HTTP, separated by commas."""


class Settings(BaseSettings):
    """Everything that can be set from outside, checked once at start."""

    model_config = SettingsConfigDict(
        env_prefix="CELERIAC_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    home: Path = Path(".celeriac")
    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "CELERIAC_DATABASE_URL")
    )
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("REDIS_URL", "CELERIAC_REDIS_URL")
    )
    celery_broker_url: str | None = Field(default=None, validation_alias="CELERY_BROKER_URL")
    celery_result_backend: str | None = Field(
        default=None, validation_alias="CELERY_RESULT_BACKEND"
    )
    local_model_url: str | None = None
    """Base URL of the embedded model server; set by `celeriac up` for its children."""
    openai_base_url: str = Field(
        default="https://api.openai.com/v1", validation_alias="OPENAI_BASE_URL"
    )
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    providers: Annotated[dict[str, ProviderSettings], NoDecode, BeforeValidator(_json)] = {}
    """More OpenAI-compatible providers by name; JSON: {"vllm": {"base_url": …, "api_key": …}}."""
    prices_file: Path | None = None
    """Own prices of models, JSON: {"vllm/qwen3-8b": {"input": 0.05, "output": 0.2}}, in US dollars
    per million tokens. They come before the published ones."""
    secret_key: SecretStr | None = None
    """Keys the hashes of API keys; at least 32 characters. `celeriac up` makes one in its home."""
    enable_async_task_execution: bool = True
    """Off makes `sync` the default execution mode (REQUIREMENTS A2)."""
    agent_modules: _Names = ()
    """Python packages whose functions agents of the `python` runner may name without `@agent`;
    separated by commas."""
    log_level: str = "INFO"
    log_dir: Path | None = None
    """Default: `logs` in the home."""
    log_console: Literal["auto", "json", "pretty", "off"] = "auto"
    """What the console shows beside the files; `auto` is pretty on a terminal, JSON elsewhere."""
    log_execution_files: bool = True
    """Off spares the log file per execution; `celeriac timeline` then searches all lines."""

    celery: CelerySettings = Field(default_factory=CelerySettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    keeper: KeeperSettings = Field(default_factory=KeeperSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_CHARACTERS:
            raise ValueError(f"must have at least {_SECRET_CHARACTERS} characters")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        return _checked(value, ("postgresql", "postgres", "postgresql+psycopg"))

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        return _checked(value, ("redis", "rediss"))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; raises ConfigurationError naming each wrong variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            faults = "; ".join(
                f"{_variable(error.title, fault['loc'])}"
                f"{fault['msg'].removeprefix('Value error, ')}"
                for fault in error.errors()
            )
            raise ConfigurationError(f"The configuration is wrong: {faults}.") from error

    @property
    def logs(self) -> Path:
        """Where log files go."""
        return self.log_dir or self.home / "logs"

    def broker_url(self) -> str:
        """The broker: CELERY_BROKER_URL, or database 1 of REDIS_URL (REQUIREMENTS A22)."""
        return self.celery_broker_url or with_database(self.require_redis(), 1)

    def result_backend(self) -> str:
        """Celery's results: CELERY_RESULT_BACKEND, or database 2 of REDIS_URL."""
        return self.celery_result_backend or with_database(self.require_redis(), 2)

    def require_redis(self) -> str:
        """The application's Redis; raises ConfigurationError where none is set."""
        if self.redis_url is None:
            raise ConfigurationError(_MISSING.format("REDIS_URL"))
        return self.redis_url

    def require_database(self) -> str:
        """The database; raises ConfigurationError where none is set."""
        if self.database_url is None:
            raise ConfigurationError(_MISSING.format("DATABASE_URL"))
        return self.database_url


GROUPS = (Settings, CelerySettings, WorkerSettings, KeeperSettings, ApiSettings)
"""All classes whose fields are variables of the environment."""

_PREFIXES = {group.__name__: group.model_config["env_prefix"] for group in GROUPS}


def _variable(group: str, place: Sequence[int | str]) -> str:
    """Return the variable that a fault lies in, and where within its value; or nothing."""
    if not place:
        return ""
    field, *within = map(str, place)
    # a field with a name of its own is told by that name
    name = field if field.isupper() else f"{_PREFIXES[group]}{field}".upper()
    return f"{'.'.join((name, *within))}: "


def _checked(url: str | None, schemes: Sequence[str]) -> str | None:
    """Return `url`; its text stays out of the message, for it may hold a password."""
    if url is not None and urlsplit(url).scheme not in schemes:
        raise ValueError(f"must begin with {schemes[0]}://")
    return url
