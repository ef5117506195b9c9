"""Settings by subject, each a model that `Settings` is made of."""

from pathlib import Path, PurePath
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from celeriac.kit.outbound import OutboundGuard
from celeriac.settings.parsing import Names, checked_url, read_json, read_names

_Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_*?][A-Za-z0-9_*?]*$")]

VariablePatterns = Annotated[tuple[_Pattern, ...], NoDecode, BeforeValidator(read_names)]
"""Names of variables, and patterns of them, in a variable separated by commas."""

AgentUser = Annotated[
    str, StringConstraints(pattern=r"^([a-z_][a-z0-9_.-]*\$?|[0-9]+(:[0-9]+)?)$", max_length=64)
]
"""A user of the system: a name, a number, or `uid:gid`."""


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


def _is_found_anywhere(line: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a program that would be looked for in the working directory of an execution."""
    is_path = "/" in line[0]  # `./x` too, which has one part
    if not line[0] or (is_path and not PurePath(line[0]).is_absolute()):
        raise ValueError(f"{line[0]!r} must be an absolute path, or a name to be looked up on PATH")
    return line


ProgramName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", max_length=100)
]
_Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
CommandLine = Annotated[
    tuple[_Argument, ...], Field(min_length=1), AfterValidator(_is_found_anywhere)
]

Commands = Annotated[dict[ProgramName, CommandLine], NoDecode, BeforeValidator(read_json)]
"""Programs with their first arguments, by the names that agents use."""


class ProviderSettings(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    api_key: SecretStr = SecretStr("none")


class ProviderLimit(BaseModel):
    """How much a provider, or one of its models, is sent in a minute by all workers together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Input and output tokens together."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError("set requests_per_minute, tokens_per_minute or both")
        return self


class OutboundSettings(BaseSettings):
    """Where requests may go whose addresses users or agents name; `CELERIAC_OUTBOUND_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_OUTBOUND_", frozen=True, extra="ignore")

    allow_private: bool = False
    """Lets them reach everything, this machine and its network among it."""
    allow_hosts: Names = ()
    """Names, addresses and networks (CIDR) that they may reach although they are not on the public
    internet; separated by commas."""

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        OutboundGuard.of(allow_private=False, allowed=value)
        return value

    def guard(self) -> OutboundGuard:
        """Return the guard of outbound requests."""
        return OutboundGuard.of(allow_private=self.allow_private, allowed=self.allow_hosts)


class ApprovalSettings(BaseSettings):
    """How people hear of questions; `CELERIAC_APPROVALS_…`."""

    model_config = SettingsConfigDict(
        env_prefix="CELERIAC_APPROVALS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    webhook: str | None = None
    """Address that is told of each question, with a link that answers it; `http://` only inside."""
    webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    """Keys the signature of what is sent there."""

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return checked_url(value, ("https", "http"))

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.webhook is not None and self.webhook_secret is None:
            raise ValueError(
                "CELERIAC_APPROVALS_WEBHOOK needs CELERIAC_APPROVALS_WEBHOOK_SECRET, at least 16 "
                "characters that its receiver checks the signature with"
            )
        return self


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


_CENTURY = 36_500


class RetentionSettings(BaseSettings):
    """Days after which the keeper removes things, 0 for never; `CELERIAC_RETENTION_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_RETENTION_", frozen=True, extra="ignore")

    executions_days: float = Field(default=180, ge=0, le=_CENTURY)
    """Executions that have ended, with their events, model calls, approvals, reports and files."""
    sessions_days: float = Field(default=90, ge=0, le=_CENTURY)
    """Sessions that nobody goes on with: their files and state."""
    files_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Files in the directories of executions that have ended."""
    logs_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Log files of executions and of the errors of a day."""
    audit_days: float = Field(default=730, ge=0, le=_CENTURY)
    """Entries of the audit trail."""
    idempotency_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Idempotency keys; from then on the same key makes new work."""
    interval_seconds: float = Field(default=300, gt=0)
    """How often the keeper looks for what is old enough."""


_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=200)]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=200)]


class McpServerSettings(BaseModel):
    """A program over stdio, or an address; one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: CommandLine | None = None
    environment: tuple[_Variable, ...] = ()
    """Names of the worker's variables that the program sees."""
    url: str | None = None
    headers: dict[_Header, _Variable] = {}
    """Names of the worker's variables that hold the values of request headers."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give it a command or a url, and not both")
        if self.command is None and self.environment:
            raise ValueError("environment is for servers with a command")
        if self.url is None and self.headers:
            raise ValueError("headers are for servers with a url")
        checked_url(self.url, ("https", "http"))
        return self


def _read_json_or_file(value: Any) -> Any:
    """Read a JSON object, or the file that is named instead of one."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return read_json(value)
    try:
        text = Path(value).read_text()
    except OSError as error:
        raise ValueError(f"must be a JSON object or a readable file: {error}") from error
    return read_json(text)


McpServersSettings = Annotated[
    dict[ProgramName, McpServerSettings], NoDecode, BeforeValidator(_read_json_or_file)
]
"""Servers by the names that agents use."""
