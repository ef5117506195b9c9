"""All settings: frozen, in groups, and the only reader of the environment; texts of their errors.

Standard names (`DATABASE_URL`, `REDIS_URL`, `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND`) are
read as they are; all others are `CELERIAC_…`. Documented in docs/configuration.md.
"""

import re
from collections.abc import Callable, Iterator, Mapping
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
from celeriac.kit.redis_urls import with_database
from celeriac.kit.text import clip
from celeriac.kit.words import counted
from celeriac.settings.confinement import ConfinementSettings
from celeriac.settings.repositories import RepositorySettings
from celeriac.settings.secrets import EncryptionKeys, SecretSources
from celeriac.settings.sections import (
    AgentUser,
    ApiSettings,
    ApprovalSettings,
    ArtifactSettings,
    CallSettings,
    CelerySettings,
    Commands,
    DatabaseSettings,
    DatabaseUrl,
    HttpUrl,
    KeeperSettings,
    McpServersSettings,
    Names,
    ObjectStoreSettings,
    ObjectStoreUrl,
    OutboundSettings,
    ProviderLimit,
    ProviderSettings,
    RetentionSettings,
    SitrepSettings,
    Url,
    VariablePatterns,
    WorkerSettings,
    read_json,
    url_with,
)

_SECRET_CHARACTERS = 32
_SHOWN = 3
_OUR_PREFIXES = re.compile(r"(?i:CELERIAC|CELERY)_")
_OURS = (
    "CELERIAC_AGENT_ENVIRONMENT has {!r}, which would let agents see {}; agents never see the "
    "variables that configure Celeriac"
)


class Settings(BaseSettings):
    """All settings, checked once at the start of a process."""

    model_config = SettingsConfigDict(
        env_prefix="CELERIAC_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    home: Path = Path(".celeriac")
    database_url: DatabaseUrl | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "CELERIAC_DATABASE_URL")
    )
    redis_url: Annotated[str, url_with("redis", "rediss", "sentinel")] | None = Field(
        default=None, validation_alias=AliasChoices("REDIS_URL", "CELERIAC_REDIS_URL")
    )
    redis_key_prefix: str = Field(default="", pattern=r"^[!-~]*$", max_length=100)
    """Beginning of all keys and channels, also of Celery's. With it broker and results share the
    database of REDIS_URL, instead of the databases 1 and 2."""
    celery_broker_url: Url | None = Field(default=None, validation_alias="CELERY_BROKER_URL")
    celery_result_backend: Url | None = Field(
        default=None, validation_alias="CELERY_RESULT_BACKEND"
    )
    local_model_url: str | None = None
    """Base URL of the embedded model server; `celeriac up` sets it for its processes."""
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
    """File of prices, JSON: {"vllm/qwen3-8b": {"input": 0.05, "output": 0.2}}, in US dollars per
    million tokens. They override the published prices."""
    secret_key: SecretStr | None = None
    """Key of the hashes of API keys, 32 characters or more. `celeriac up` makes one in its home."""
    encryption_keys: EncryptionKeys = ()
    """Keys that encrypt stored secrets, 32 characters or more, separated by commas: the first
    encrypts, all decrypt. Default: derived from the secret key."""
    enable_async_task_execution: bool = True
    """False makes `sync` the default execution mode (REQUIREMENTS A2)."""
    agent_modules: Names = ()
    """Modules and packages whose functions agents of the `python` runner may name; separated by
    commas. No others are imported."""
    agent_environment: VariablePatterns = ()
    """Variables of the worker that agents may pass to their child processes: names, and patterns
    with `*` and `?`, separated by commas. Variables of Celeriac are refused."""
    agent_user: AgentUser | None = None
    """User of the child processes of agents where the worker runs as root: a name, or `uid:gid`.
    Default: `celeriac-agent`, a system user that is created if possible."""
    commands: Commands = {}
    """Programs that agents of the `command` runner may name; JSON: {"word-count":
    ["/opt/tools/word-count", "--json"]}."""
    public_url: HttpUrl | None = None
    """Address of the API for browsers; links that answer questions begin with it."""
    allowed_hosts: Names = ()
    """Host names under which the API may be reached, besides loopback names, the address that it
    listens on and the host of `public_url`; separated by commas. `*.example.com` allows the
    subdomains, `*` all hosts."""
    mcp_servers: McpServersSettings = {}
    """MCP servers that agents may name; JSON, or a file of it: {"files": {"command":
    ["/opt/mcp/files"]}, "crm": {"url": …, "headers": {"Authorization": "CRM_AUTHORIZATION"}}}."""
    secret_sources: SecretSources = {}
    """What secrets may be read from on this machine, by workers; JSON: {"vault-db": {"command":
    ["/usr/bin/vault", "kv", "get", …]}, "deploy": {"file": "/etc/deploy.key"}, "crm":
    {"environment": "CRM_TOKEN"}}."""
    github_api_url: HttpUrl = "https://api.github.com"
    """API of GitHub, or of a GitHub Enterprise Server, that makes tokens of GitHub Apps."""
    crewai_venv: Path | None = None
    """Virtual environment of CrewAI; `celeriac crews install` builds it. Default: `crewai` in the
    home."""
    model_directory: Path | None = None
    """Directory of the weights of the local model; `celeriac models install` fetches them. Default:
    `models` in the home."""
    object_store: ObjectStoreUrl | None = None
    """Where files of working directories are kept: `file:///directory`, or `s3://bucket/prefix`.
    Default: `objects` in the home."""
    log_level: str = "INFO"
    log_dir: Path | None = None
    """Default: `logs` in the home."""
    log_console: Literal["auto", "json", "pretty", "off"] = "auto"
    """Form of the lines on the console; `auto` is pretty on a terminal and JSON elsewhere."""
    log_execution_files: bool = True
    """False writes no log file per execution; `celeriac timeline` then searches all lines."""

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    celery: CelerySettings = Field(default_factory=CelerySettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    keeper: KeeperSettings = Field(default_factory=KeeperSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)
    confinement: ConfinementSettings = Field(default_factory=ConfinementSettings)
    repositories: RepositorySettings = Field(default_factory=RepositorySettings)
    calls: CallSettings = Field(default_factory=CallSettings)
    approvals: ApprovalSettings = Field(default_factory=ApprovalSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    sitrep: SitrepSettings = Field(default_factory=SitrepSettings)
    objects: ObjectStoreSettings = Field(default_factory=ObjectStoreSettings)
    artifacts: ArtifactSettings = Field(default_factory=ArtifactSettings)

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_CHARACTERS:
            raise ValueError(f"must have at least {_SECRET_CHARACTERS} characters")
        return value

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, value: str | None) -> str | None:
        return value and value.rstrip("/")

    @model_validator(mode="after")
    def _agents_see_none_of_ours(self) -> Self:
        """Refuse patterns that would pass our own variables, which hold secrets, to agents."""
        for pattern in self.agent_environment:
            if _OUR_PREFIXES.match(pattern):
                raise ValueError(_OURS.format(pattern, "Celeriac's own"))
            ours = sorted(name for name in self.reserved if fnmatchcase(name, pattern.upper()))
            if ours:
                raise ValueError(_OURS.format(pattern, ", ".join(ours[:_SHOWN])))
        return self

    @model_validator(mode="after")
    def _a_pooler_has_an_address(self) -> Self:
        """Refuse a pooler without its address: the embedded server has none."""
        if self.database.pooler and self.database_url is None:
            raise ValueError(
                "CELERIAC_DATABASE_POOLER needs DATABASE_URL, the address of the pooler"
            )
        return self

    @property
    def reserved(self) -> frozenset[str]:
        """The variables that hold these settings or are named in them, in upper case."""
        headers = (server.headers.values() for server in self.mcp_servers.values())
        named = {name.upper() for names in headers for name in names}
        named |= {
            each.environment.upper() for each in self.secret_sources.values() if each.environment
        }
        return OWN_VARIABLES | named

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; raises ConfigurationError naming each wrong variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            faults = "; ".join(_describe(error.title, fault) for fault in error.errors())
            raise ConfigurationError(f"The configuration is wrong: {faults}.") from error

    @property
    def logs(self) -> Path:
        """Directory of the log files."""
        return self.log_dir or self.home / "logs"

    @property
    def crewai(self) -> Path:
        """Directory of CrewAI's virtual environment."""
        return self.crewai_venv or self.home / "crewai"

    @property
    def models(self) -> Path:
        """Directory of the weights of the local model, unless a package holds them."""
        return self.model_directory or self.home / "models"

    @property
    def object_store_url(self) -> str:
        """Address of the object store."""
        return self.object_store or (self.home / "objects").absolute().as_uri()

    def broker_url(self) -> str:
        """The broker: CELERY_BROKER_URL, or database 1 of REDIS_URL (REQUIREMENTS A22)."""
        return self.celery_broker_url or self._database_of_redis(1)

    def result_backend(self) -> str:
        """Celery's results: CELERY_RESULT_BACKEND, or database 2 of REDIS_URL."""
        return self.celery_result_backend or self._database_of_redis(2)

    def _database_of_redis(self, number: int) -> str:
        url = self.require_redis()
        return url if self.redis_key_prefix else with_database(url, number)

    def require_redis(self) -> str:
        """The Redis of the application. Raises ConfigurationError if it is not set."""
        return _require(self.redis_url, "REDIS_URL")

    def require_database(self) -> str:
        """The database. Raises ConfigurationError if it is not set."""
        return _require(self.database_url, "DATABASE_URL")

    def direct_database(self) -> str:
        """The database without a pooler. Raises ConfigurationError if only the pooler is known."""
        if self.database.direct_url is not None:
            return self.database.direct_url
        if self.database.pooler:
            raise ConfigurationError(
                "CELERIAC_DATABASE_DIRECT_URL is not set. Migrations need a connection without the "
                "pooler that DATABASE_URL leads to."
            )
        return self.require_database()


def _require(value: str | None, variable: str) -> str:
    if value is None:
        raise ConfigurationError(
            f"{variable} is not set. Set it to your server, or start the embedded servers with "
            "`celeriac up`, whose addresses the other commands in this directory find."
        )
    return value


GROUPS = (
    Settings,
    DatabaseSettings,
    CelerySettings,
    WorkerSettings,
    KeeperSettings,
    ApiSettings,
    OutboundSettings,
    ConfinementSettings,
    RepositorySettings,
    CallSettings,
    ApprovalSettings,
    RetentionSettings,
    SitrepSettings,
    ObjectStoreSettings,
    ArtifactSettings,
)
"""All classes whose fields are environment variables."""


def _variables(group: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each variable that sets a field of `group`, in upper case, with the field."""
    for name, field in group.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            yield from ((str(each).upper(), field) for each in alias.choices)
        else:
            yield str(alias or f"{group.model_config['env_prefix']}{name}").upper(), field


_FIELDS = {group.__name__: dict(_variables(group)) for group in GROUPS}
_PREFIXES = {group.__name__: group.model_config["env_prefix"] for group in GROUPS}

OWN_VARIABLES = frozenset(name for variables in _FIELDS.values() for name in variables)
"""Every environment variable that is read into settings, in upper case."""

_QUOTED_CHARACTERS = 60
_BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))

_BEYOND = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")
_NUMBERS = {
    **dict.fromkeys(
        ("int_parsing", "int_from_float", "int_type", "int_parsing_size"), "a whole number"
    ),
    **dict.fromkeys(("float_parsing", "float_type", *_BEYOND), "a number"),
    "finite_number": "a finite number",
}
_OBJECTS = ("dict_type", "mapping_type", "model_type", "model_attributes_type")
_FLAGS = frozenset({"bool_parsing", "bool_type"})

_OTHERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is missing",
    "extra_forbidden": lambda _: "is unknown",
    "string_type": lambda _: "must be a text",
    **dict.fromkeys(_OBJECTS, lambda _: "must be a JSON object"),
    **dict.fromkeys(("tuple_type", "list_type"), lambda _: "must be a list"),
    "string_pattern_mismatch": lambda context: f"must match the pattern {context['pattern']}",
    "string_too_short": lambda context: _bound("least", context["min_length"], "character"),
    "string_too_long": lambda context: _bound("most", context["max_length"], "character"),
    "too_short": lambda context: _bound("least", context["min_length"], "entry", "entries"),
    "too_long": lambda context: _bound("most", context["max_length"], "entry", "entries"),
}


def _bound(which: str, number: int, *nouns: str) -> str:
    return f"must have at {which} {counted(number, *nouns)}"


def _wording(fault: Mapping[str, Any], field: FieldInfo | None) -> str:
    """Return the error text of a Pydantic `fault`, without the name of the variable.

    `field` is the setting, whose bounds are named; None where the fault is inside its value. Only
    numbers, flags and choices are quoted: other values may hold a password.
    """
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind in _NUMBERS:
        return f"must be {_NUMBERS[kind]}{_range(field, context)}{_given(fault, field)}"
    if kind in _FLAGS:
        return f"must be true or false{_given(fault, field)}"
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}{_given(fault, field)}"
    if kind in _OTHERS:
        return _OTHERS[kind](context)
    return str(fault["msg"]).removeprefix("Value error, ")


def _range(field: FieldInfo | None, context: Mapping[str, Any]) -> str:
    """Return the bounds of a number: all bounds of the setting, or the one that is violated."""
    if field is None:
        bounds = {name: context[name] for name, _ in _BOUNDS if name in context}
    else:
        bounds = {
            name: getattr(each, name)
            for each in field.metadata
            for name, _ in _BOUNDS
            if hasattr(each, name)
        }
    words = [f"{word} {bounds[name]:g}" for name, word in _BOUNDS if name in bounds]
    return f", {' and '.join(words)}" if words else ""


def _given(fault: Mapping[str, Any], field: FieldInfo | None) -> str:
    """Quote the value of a setting; a value inside JSON may be a secret."""
    value = fault.get("input")
    if field is None or not isinstance(value, str | int | float):
        return ""
    return f", not {clip(str(value), _QUOTED_CHARACTERS)!r}"


def _describe(group: str, fault: Mapping[str, Any]) -> str:
    """Return the error text of a Pydantic `fault`, with the variable and the place in its value."""
    if not fault["loc"]:
        return _wording(fault, None)
    field, *within = map(str, fault["loc"])
    # the location is the alias where there is one, and aliases are variables
    variable = field if field.isupper() else f"{_PREFIXES[group]}{field}".upper()
    text = _wording(fault, None if within else _FIELDS[group].get(variable))
    return f"{'.'.join((variable, *within))}: {text}"
