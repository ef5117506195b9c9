"""The groups of settings, and how their variables are read."""

from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
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

from celeriac.kit.json_types import loads
from celeriac.kit.outbound import OutboundGuard, addresses
from celeriac.kit.redis_urls import SentinelUrl
from celeriac.kit.urls import split_hosts

_EXECUTION_TASKS = "celeriac.tasks.execution."


def read_names(value: Any) -> Any:
    """Read the names in a variable: `a,b` or `["a", "b"]`."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return read_json(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def read_json(value: Any) -> Any:
    """Read a JSON text. Raises ValueError for malformed JSON."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from error


_MOST_PORT = 65535


def _check_address(url: str, schemes: tuple[str, ...]) -> None:
    parts = split_hosts(url)
    if schemes and parts.scheme not in schemes:
        raise ValueError("must begin with " + " or ".join(f"{each}://" for each in schemes))
    for host in parts.netloc.rpartition("@")[2].split(","):
        urlsplit(f"//{host}")  # checks an address in brackets
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and int(port) <= _MOST_PORT):
            raise ValueError("has a port that is not a number from 0 to 65535")
    SentinelUrl.read(url)


def url_with(*schemes: str) -> AfterValidator:
    """Return a validator of URLs: one of `schemes`, if any are given, and valid ports.

    Several URLs may be separated by semicolons, as kombu takes them.

    The URL is in no message: it may hold a password.
    """

    def check(url: str) -> str:
        for each in addresses(url):
            _check_address(each, schemes)
        return url

    return AfterValidator(check)


Url = Annotated[str, url_with()]
HttpUrl = Annotated[str, url_with("https", "http")]

Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_names)]
"""Names, separated by commas in a variable."""

_Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_*?][A-Za-z0-9_*?]*$")]

VariablePatterns = Annotated[tuple[_Pattern, ...], NoDecode, BeforeValidator(read_names)]
"""Names and patterns of variables, separated by commas in a variable."""

AgentUser = Annotated[
    str, StringConstraints(pattern=r"^([a-z_][a-z0-9_.-]*\$?|[0-9]+(:[0-9]+)?)$", max_length=64)
]
"""A user of the machine: a name, a number, or `uid:gid`."""


class Group(BaseSettings):
    """Settings whose variables have a prefix of their own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Entry(BaseModel):
    """A value within a JSON variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DatabaseUrl = Annotated[str, url_with("postgresql", "postgres", "postgresql+psycopg")]


class DatabaseSettings(Group, env_prefix="CELERIAC_DATABASE_"):
    """A pooler in front of the database; `CELERIAC_DATABASE_…`."""

    pooler: bool = False
    """Whether DATABASE_URL leads to a pooler in transaction mode, such as PgBouncer."""
    pooler_prepares: bool = False
    """Whether the pooler tracks prepared statements (`max_prepared_statements` of PgBouncer)."""
    direct_url: DatabaseUrl | None = None
    """The database without the pooler, for migrations."""


class CelerySettings(Group, env_prefix="CELERIAC_CELERY_"):
    """Celery's own settings (REQUIREMENTS A8); `CELERIAC_CELERY_…` sets each of them."""

    task_acks_late: bool = True
    task_reject_on_worker_lost: bool = True
    task_track_started: bool = True
    task_time_limit: float = Field(default=60.0, gt=0)
    task_soft_time_limit: float = Field(default=55.0, gt=0)
    worker_prefetch_multiplier: int = Field(default=1, ge=0)
    worker_max_tasks_per_child: int = Field(default=1000, ge=1)
    """Number of messages after which a child of `prefork` is replaced."""
    worker_max_memory_per_child: int | None = Field(default=None, ge=1)
    """Kilobytes after which a child of `prefork` is replaced."""
    worker_hijack_root_logger: bool = False
    """Has no effect: Celeriac's own pipeline always replaces Celery's logging."""
    worker_soft_shutdown_timeout: float = Field(default=30.0, ge=0)
    """Seconds that executions have to finish in a worker that stops, before it hands them back."""
    result_extended: bool = True
    result_expires: int = Field(default=3600, ge=1)
    visibility_timeout: int = Field(default=300, ge=1)
    """Seconds until Redis redelivers an unacknowledged message; duplicates are harmless."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """Type of the queues in RabbitMQ. An existing queue of another type must be deleted first."""
    delivery_limit: int = Field(default=10_000, ge=1)
    """Deliveries after which RabbitMQ drops a message of a quorum queue."""
    include: Names = ()
    """Modules with Celery tasks of users, which every worker loads; separated by commas."""
    enable_utc: bool = True
    timezone: str = "UTC"
    publish_timeout: float = Field(default=1.0, gt=0)
    """Seconds that publishing a message may block its caller."""

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"{value!r} is not a time zone; give an IANA name such as Europe/Berlin"
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


class CallSettings(Group, env_prefix="CELERIAC_CALLS_"):
    """Celery tasks that start executions; `CELERIAC_CALLS_…`."""

    user: str | None = None
    """The user whose executions they are; without one such tasks fail."""
    workspace: str | None = None
    """The workspace of the executions; the user's personal one if not set."""


def _is_found_anywhere(line: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a program that would be searched in the working directory of an execution."""
    is_path = "/" in line[0]  # `./x` too, which has one part
    if not line[0] or (is_path and not PurePath(line[0]).is_absolute()):
        raise ValueError(
            f"{line[0]!r} must be an absolute path, or a name that is searched on PATH"
        )
    return line


ProgramName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", max_length=100)
]
_Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
CommandLine = Annotated[
    tuple[_Argument, ...], Field(min_length=1), AfterValidator(_is_found_anywhere)
]

Commands = Annotated[dict[ProgramName, CommandLine], NoDecode, BeforeValidator(read_json)]
"""Programs with their first arguments, by the name that agents use."""


class ProviderSettings(Entry):
    """One OpenAI-compatible endpoint."""

    base_url: str
    api_key: SecretStr = SecretStr("none")


class ProviderLimit(Entry):
    """What all workers together may send to a provider, or one of its models, in a minute."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Input and output tokens together."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError("set requests_per_minute, tokens_per_minute or both")
        return self


class OutboundSettings(Group, env_prefix="CELERIAC_OUTBOUND_"):
    """Allowed targets of requests to addresses of users or agents; `CELERIAC_OUTBOUND_…`."""

    allow_private: bool = False
    """Allows all targets, including this machine and its network."""
    allow_hosts: Names = ()
    """Names, addresses and networks (CIDR) that are allowed although they are not on the public
    internet; separated by commas."""

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        OutboundGuard.of(allow_private=False, allowed=value)
        return value

    def guard(self) -> OutboundGuard:
        """Return the guard of outbound requests."""
        return OutboundGuard.of(allow_private=self.allow_private, allowed=self.allow_hosts)


class ApprovalSettings(Group, env_prefix="CELERIAC_APPROVALS_"):
    """How people are notified of approvals; `CELERIAC_APPROVALS_…`."""

    webhook: HttpUrl | None = None
    """Address that receives each question with a link to answer it. Use `http://` only in a private
    network."""
    webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    """Key of the signature of these requests."""

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.webhook is not None and self.webhook_secret is None:
            raise ValueError(
                "CELERIAC_APPROVALS_WEBHOOK needs CELERIAC_APPROVALS_WEBHOOK_SECRET, at least 16 "
                "characters; its receiver checks the signature with it"
            )
        return self


class WorkerSettings(Group, env_prefix="CELERIAC_WORKER_"):
    """Leases and behaviour of workers; `CELERIAC_WORKER_…`."""

    lease_seconds: float = Field(default=30.0, ge=1)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    event_flush_seconds: float = Field(default=0.1, gt=0)
    database_connections: int = Field(default=8, ge=2)
    coroutines: int = Field(default=100, ge=0)
    """Executions of agents that only wait (language models, Python coroutines) that one process
    runs besides those in its slots. 0: each execution takes a slot."""
    tree_executions: int = Field(default=100_000, ge=1)
    """How many executions a tree may start: durable functions that run tasks, and what these
    start."""
    stall_seconds: float = Field(default=90.0, ge=1)
    """A worker that takes no messages for so many seconds, although some wait and it has free
    slots, ends, so that its supervisor starts another."""
    reload: bool = False
    """When the code of its agents changes, the worker ends after its running executions, so that
    its supervisor starts it with the new code. `celeriac up` sets it."""
    warm_runners: bool = False
    """Load the libraries of the runners in the background when the worker starts. Otherwise the
    first execution of each runner waits for them (one or two seconds for language models). In
    prefork they are always loaded before the first child is forked."""

    @model_validator(mode="after")
    def _a_lease_outlives_a_heartbeat(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError(
                f"CELERIAC_WORKER_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}) must be at most "
                f"half of CELERIAC_WORKER_LEASE_SECONDS ({self.lease_seconds:g}), or leases run "
                "out between two heartbeats"
            )
        return self


class KeeperSettings(Group, env_prefix="CELERIAC_KEEPER_"):
    """Intervals of the keeper; `CELERIAC_KEEPER_…`."""

    interval_seconds: float = Field(default=0.5, gt=0)
    batch_size: int = Field(default=500, ge=1)
    resend_seconds: float = Field(default=15.0, gt=0)
    """A queued execution whose message is in no queue for so many seconds is sent again."""
    ageing_seconds: float = Field(default=0.0, ge=0)
    """After so many seconds of waiting, low becomes normal, and after twice that normal high."""


class ApiSettings(Group, env_prefix="CELERIAC_API_"):
    """The HTTP server; `CELERIAC_API_…`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    max_body_bytes: int = Field(default=8_000_000, ge=1024)
    max_batch: int = Field(default=10_000, ge=1)
    header_seconds: float = Field(default=20.0, gt=0)
    """Seconds within which the headers of a request must arrive."""
    body_seconds: float = Field(default=60.0, gt=0)
    """Seconds within which the body of a request must arrive, from the first read."""
    max_connections: int = Field(default=4_000, ge=1)
    """Connections of one process; more are answered with 503."""
    bad_keys_per_minute: int = Field(default=30, ge=1)
    """Unknown API keys that are looked up for one address per minute."""
    database_connections: int = Field(default=10, ge=2)
    statement_seconds: float = Field(default=15.0, ge=1, le=60)
    """How long a statement may take in PostgreSQL. Its answer is waited for five seconds longer,
    and a connection for five: together they are less than the 30 s of clients."""
    metrics_token: SecretStr | None = Field(default=None, min_length=32)
    """A token that may read `/metrics` and nothing else; without it only administrators may."""
    celery_task_allow_list: Names = (
        "celeriac.tasks.monitoring.ping",
        "celeriac.tasks.monitoring.health_check",
    )
    """Plain Celery tasks that may be enqueued over HTTP, separated by commas."""

    @field_validator("celery_task_allow_list")
    @classmethod
    def _starts_no_executions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name.startswith(_EXECUTION_TASKS):
                raise ValueError(
                    f"{name!r} can't be sent over HTTP, because it would start executions of "
                    "another user; POST /tasks/{id}/execute starts one"
                )
        return value


_Share = Annotated[float, Field(gt=0, le=1)]
_Seconds = Annotated[float, Field(gt=0)]


class SitrepSettings(Group, env_prefix="CELERIAC_SITREP_"):
    """From when on the situation report names a problem; `CELERIAC_SITREP_…`."""

    window_seconds: float = Field(default=600.0, ge=60, le=3_600)
    """Length of the window of its rates and of the share of failures."""
    no_worker_seconds: float = Field(default=10.0, ge=0)
    """An execution has waited so long in a queue to which no worker listens."""
    queue_seconds: _Seconds = 300.0
    """An execution has waited so long although workers listen to its queue."""
    queue_critical_seconds: _Seconds = 1_800.0
    """After so many seconds that is critical."""
    failure_share: _Share = 0.05
    """More than this share of the executions in the window failed."""
    failure_critical_share: _Share = 0.5
    """From this share on that is critical."""
    failure_runs: int = Field(default=20, ge=1)
    """With fewer executions in the window their failures are not reported."""
    keeper_seconds: _Seconds = 60.0
    """The keeper has done nothing for so long."""
    schedule_seconds: _Seconds = 60.0
    """A fire of a schedule is overdue by so much."""
    approval_seconds: _Seconds = 3_600.0
    """A question has waited so long for an answer."""
    budget_share: _Share = 0.8
    """This share of a budget is spent."""


_OBJECTS = "must be file:///directory or s3://bucket/prefix"


def _object_store(url: str) -> str:
    parts = urlsplit(url)
    plain = not (parts.query or parts.fragment or parts.username or parts.port)
    if parts.scheme == "file" and plain and not parts.netloc and len(parts.path) > 1:
        return url
    if parts.scheme == "s3" and plain and parts.netloc:
        return url.rstrip("/")
    raise ValueError(_OBJECTS)


ObjectStoreUrl = Annotated[str, AfterValidator(_object_store)]


class ObjectStoreSettings(Group, env_prefix="CELERIAC_OBJECT_STORE_"):
    """How an `s3://` object store is reached; `CELERIAC_OBJECT_STORE_…`.

    What is not set comes from the standard `AWS_…` variables.
    """

    endpoint: HttpUrl | None = None
    """Address of an S3-compatible server; without it, Amazon's."""
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    links: bool = False
    """Downloads are redirected to the store, to a link that is valid for `link_seconds`, instead of
    going through the API."""
    link_seconds: float = Field(default=300.0, ge=1, le=604_800)


class ArtifactSettings(Group, env_prefix="CELERIAC_ARTIFACTS_"):
    """What is saved of one working directory at most; `CELERIAC_ARTIFACTS_…`.

    Further files are left out, and counted as `skipped`.
    """

    file_bytes: int = Field(default=1 << 30, ge=0)
    """Of one file."""
    bytes: int = Field(default=4 << 30, ge=0)
    """Of all files of an execution or session together."""
    files: int = Field(default=10_000, ge=0)
    """Files, links and empty directories."""


_Days = Annotated[float, Field(ge=0, le=36_500)]


class RetentionSettings(Group, env_prefix="CELERIAC_RETENTION_"):
    """Days after which keeper and workers delete data; 0 is for ever; `CELERIAC_RETENTION_…`."""

    executions_days: _Days = 180
    """Ended executions with their events, model calls, approvals, reports and files."""
    sessions_days: _Days = 90
    """Files and state of sessions that no execution has continued."""
    files_days: _Days = 30
    """Files in the directories of ended executions."""
    logs_days: _Days = 30
    """Log files of executions, and daily files of errors."""
    audit_days: _Days = 730
    """Entries of the audit trail."""
    idempotency_days: _Days = 30
    """Idempotency keys; afterwards the same key creates a new execution."""
    deliveries_days: _Days = 30
    """Deliveries to webhooks that have arrived or failed."""
    rollups_days: _Days = 366
    """Sums of ended executions by hour and day; those by minute are kept for two days."""
    partition_days: int = Field(default=7, ge=1, le=366)
    """Days whose executions are stored, and later dropped, together."""
    interval_seconds: float = Field(default=300, gt=0)
    """Seconds between two searches for data that is old enough."""


_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=200)]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=200)]


class McpServerSettings(Entry):
    """An MCP server: a program over stdio, or an address."""

    command: CommandLine | None = None
    environment: tuple[_Variable, ...] = ()
    """Variables of the worker that are passed to the program."""
    url: HttpUrl | None = None
    headers: dict[_Header, _Variable] = {}
    """Request headers, each with the variable of the worker that holds its value."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give it a command or a url, and not both")
        if self.command is None and self.environment:
            raise ValueError("environment is for servers with a command")
        if self.url is None and self.headers:
            raise ValueError("headers are for servers with a url")
        return self


def _read_json_or_file(value: Any) -> Any:
    """Read a JSON object, or the JSON file whose path is given."""
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
"""MCP servers by the name that agents use."""
