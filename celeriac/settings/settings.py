"""The settings as a whole, and how faults in them are told."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from celeriac.domain.errors import ConfigurationError
from celeriac.kit.outbound import with_database
from celeriac.settings.parsing import Names, checked_url, read_json, wording
from celeriac.settings.sections import (
    AgentUser,
    ApiSettings,
    ApprovalSettings,
    CelerySettings,
    Commands,
    KeeperSettings,
    McpServersSettings,
    OutboundSettings,
    ProviderLimit,
    ProviderSettings,
    RetentionSettings,
    VariablePatterns,
    WorkerSettings,
)

_SECRET_CHARACTERS = 32
_SHOWN = 3
_OUR_PREFIXES = re.compile(r"(?i:CELERIAC|CELERY)_")
_OURS = (
    "CELERIAC_AGENT_ENVIRONMENT has {!r}, which would let agents see {}; agents never see the "
    "variables that configure Celeriac"
)
_MISSING = (
    "{} is not set. Set it to your server, or start the embedded servers with `celeriac up`, "
    "which tells the other commands in this directory where they are."
)


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
    anthropic_base_url: str = Field(
        default="https://api.anthropic.com", validation_alias="ANTHROPIC_BASE_URL"
    )
    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    """For agents of the `claude` runner."""
    providers: Annotated[dict[str, ProviderSettings], NoDecode, BeforeValidator(read_json)] = {}
    """More OpenAI-compatible providers by name; JSON: {"vllm": {"base_url": …, "api_key": …}}."""
    provider_limits: Annotated[dict[str, ProviderLimit], NoDecode, BeforeValidator(read_json)] = {}
    """Limits by `provider` or `provider/model`; JSON: {"openai": {"requests_per_minute": 60}}."""
    prices_file: Path | None = None
    """Own prices of models, JSON: {"vllm/qwen3-8b": {"input": 0.05, "output": 0.2}}, in US dollars
    per million tokens. They come before the published ones."""
    secret_key: SecretStr | None = None
    """Keys the hashes of API keys; at least 32 characters. `celeriac up` makes one in its home."""
    enable_async_task_execution: bool = True
    """Off makes `sync` the default execution mode (REQUIREMENTS A2)."""
    agent_modules: Names = ()
    """Python modules and packages whose functions agents of the `python` runner may name; separated
    by commas. No other is imported."""
    agent_environment: VariablePatterns = ()
    """Variables of the workers that agents may name for their child processes; names and patterns
    with `*` and `?`, separated by commas. None of Celeriac's own."""
    agent_user: AgentUser | None = None
    """Who child processes of agents run as where the worker runs as root: a name, or `uid:gid`.
    Default: `celeriac-agent`, a system user that is made where it can be."""
    commands: Commands = {}
    """Programs that agents of the `command` runner may name; JSON: {"word-count":
    ["/opt/tools/word-count", "--json"]}."""
    public_url: str | None = None
    """Where people reach the API with a browser; links that answer questions begin with it."""
    allowed_hosts: Names = ()
    """Hosts by which the API may be reached, beside this machine's own loopback names, the address
    that it listens on and the host of `public_url`; separated by commas. `*.example.com` means
    those within, `*` all."""
    mcp_servers: McpServersSettings = {}
    """MCP servers that agents may name; JSON, or a file of it: {"files": {"command":
    ["/opt/mcp/files"]}, "crm": {"url": …, "headers": {"Authorization": "CRM_AUTHORIZATION"}}}."""
    crewai_venv: Path | None = None
    """CrewAI's own virtual environment; `celeriac crews install` builds it. Default: `crewai` in
    the home."""
    model_directory: Path | None = None
    """Where the weights of the local model are; `celeriac models install` fetches them. Default:
    `models` in the home."""
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
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)
    approvals: ApprovalSettings = Field(default_factory=ApprovalSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_CHARACTERS:
            raise ValueError(f"must have at least {_SECRET_CHARACTERS} characters")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        return checked_url(value, ("postgresql", "postgres", "postgresql+psycopg"))

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        return checked_url(value, ("redis", "rediss"))

    @field_validator("celery_broker_url", "celery_result_backend")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return checked_url(value)

    @field_validator("public_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        checked = checked_url(value, ("https", "http"))
        return None if checked is None else checked.rstrip("/")

    @model_validator(mode="after")
    def _agents_see_none_of_ours(self) -> Self:
        """Refuse what would hand our own variables, which hold secrets, to agents."""
        for pattern in self.agent_environment:
            if _OUR_PREFIXES.match(pattern):
                raise ValueError(_OURS.format(pattern, "Celeriac's own"))
            ours = sorted(name for name in self.reserved if fnmatchcase(name, pattern.upper()))
            if ours:
                raise ValueError(_OURS.format(pattern, ", ".join(ours[:_SHOWN])))
        return self

    @property
    def reserved(self) -> frozenset[str]:
        """The variables that hold these settings or are named by them, in upper case."""
        headers = (server.headers.values() for server in self.mcp_servers.values())
        return OWN_VARIABLES | {name.upper() for names in headers for name in names}

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; raises ConfigurationError naming each wrong variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            faults = "; ".join(
                f"{_variable(error.title, fault['loc'])}"
                f"{wording(fault, _field(error.title, fault['loc']))}"
                for fault in error.errors()
            )
            raise ConfigurationError(f"The configuration is wrong: {faults}.") from error

    @property
    def logs(self) -> Path:
        """Where log files go."""
        return self.log_dir or self.home / "logs"

    @property
    def crewai(self) -> Path:
        """Where CrewAI's virtual environment is."""
        return self.crewai_venv or self.home / "crewai"

    @property
    def models(self) -> Path:
        """Where the weights of the local model are, unless a package holds them."""
        return self.model_directory or self.home / "models"

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


GROUPS = (
    Settings,
    CelerySettings,
    WorkerSettings,
    KeeperSettings,
    ApiSettings,
    OutboundSettings,
    ApprovalSettings,
    RetentionSettings,
)
"""All classes whose fields are variables of the environment."""


def _names_of(group: type[BaseSettings], name: str, field: FieldInfo) -> Iterator[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        yield from map(str, alias.choices)
    else:
        yield str(alias or f"{group.model_config['env_prefix']}{name}")


OWN_VARIABLES = frozenset(
    variable.upper()
    for group in GROUPS
    for name, field in group.model_fields.items()
    for variable in _names_of(group, name, field)
)
"""Every variable of the environment that is read into settings, in upper case."""

_PREFIXES = {group.__name__: group.model_config["env_prefix"] for group in GROUPS}


_FIELDS = {
    group.__name__: {
        variable.upper(): field
        for name, field in group.model_fields.items()
        for variable in (name, *_names_of(group, name, field))
    }
    for group in GROUPS
}


def _field(group: str, place: Sequence[int | str]) -> FieldInfo | None:
    """Return the setting whose whole value is at fault; None where a part of it is."""
    return _FIELDS[group].get(str(place[0]).upper()) if len(place) == 1 else None


def _variable(group: str, place: Sequence[int | str]) -> str:
    """Return the variable that a fault lies in, and where within its value; or nothing."""
    if not place:
        return ""
    field, *within = map(str, place)
    # a field with a name of its own is told by that name
    name = field if field.isupper() else f"{_PREFIXES[group]}{field}".upper()
    return f"{'.'.join((name, *within))}: "
