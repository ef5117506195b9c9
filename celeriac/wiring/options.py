"""From settings to what each part is told of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from celeriac.adapters.celery_app import CeleryOptions
from celeriac.agents.advice import Advice
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.upstream import Upstream
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.providers import Providers
from celeriac.agents.python.callables import declared_modules
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import ConfigurationError
from celeriac.domain.rate import Rate
from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home
from celeriac.kit.process import UserIds
from celeriac.kit.users import OURSELVES, ChildUser, named_user, obstacle, system_user
from celeriac.logs import LogOptions, Service
from celeriac.services.places import Places
from celeriac.settings import Settings

SECRET_KEY_NAME = "secret_key"  # noqa: S105 - the name of a file
"""The home's secret that keys the hashes of API keys."""

AGENT_USER = "celeriac-agent"
"""The system user that agents run as where the worker runs as root."""

_SPARE_ID = 65_529
"""Taken where no user can be made: reserved by distributions and never given to anybody."""


def load_settings(home: Path | None = None) -> Settings:
    """Read the environment and, where it names no servers, the stack that runs in the home.

    Raises ConfigurationError naming what is wrong; servers that nobody names stay None until they
    are asked for.
    """
    settings = Settings.load() if home is None else Settings.load(home=home)
    place = Home.at(settings.home)
    stack = find_running_stack(place)
    found: dict[str, object] = {}
    if stack is not None:
        found = {
            "database_url": stack.endpoints.database_url,
            "redis_url": stack.endpoints.redis_url,
            "celery_broker_url": stack.endpoints.broker_url,
            "celery_result_backend": stack.endpoints.result_backend,
            "local_model_url": stack.endpoints.model_base_url,
            "secret_key": SecretStr(place.secret(SECRET_KEY_NAME)),
        }
    missing = {name: value for name, value in found.items() if getattr(settings, name) is None}
    return settings.model_copy(update=missing)


def celery_options(settings: Settings, *, publisher: bool) -> CeleryOptions:
    """Return what the Celery app needs of the settings.

    A `publisher` (API, beat, CLI) gives up on a silent broker after a second; a worker's sockets
    wait for messages and must not.
    """
    celery = settings.celery
    return CeleryOptions(
        broker_url=settings.broker_url(),
        result_backend=settings.result_backend(),
        visibility_timeout=celery.visibility_timeout,
        publish_timeout=celery.publish_timeout if publisher else None,
        extra=celery.model_dump(exclude={"visibility_timeout", "publish_timeout"}),
    )


def log_options(settings: Settings, service: Service) -> LogOptions:
    """Return how this process writes its log."""
    return LogOptions(
        service=service,
        level=settings.log_level,
        directory=settings.logs,
        console=settings.log_console,
        execution_files=settings.log_execution_files,
    )


def places(settings: Settings) -> Places:
    """Return where executions and sessions leave files."""
    return Places(
        sessions=settings.home / "sessions", workdirs=settings.home / "work", logs=settings.logs
    )


def secret_key(settings: Settings) -> str:
    """Return the key of the hashes of API keys; raises ConfigurationError where there is none."""
    if settings.secret_key is None:
        raise ConfigurationError(
            "CELERIAC_SECRET_KEY is not set. It keys the hashes of API keys: set it to at least 32 "
            "random characters, the same for every process; `celeriac up` makes one in its home."
        )
    return settings.secret_key.get_secret_value()


def rates(settings: Settings) -> dict[str, Rate]:
    """Return the providers' limits, by `provider` or `provider/model`."""
    return {
        name: Rate(limit.requests_per_minute, limit.tokens_per_minute)
        for name, limit in settings.provider_limits.items()
    }


def providers(settings: Settings) -> Providers:
    """Return the model providers that agents may name; ConfigurationError for a bad address."""
    key = settings.openai_api_key
    return Providers.configured(
        openai_base_url=settings.openai_base_url,
        openai_api_key=key.get_secret_value() if key else None,
        local_model_url=settings.local_model_url,
        others={
            name: (provider.base_url, provider.api_key.get_secret_value())
            for name, provider in settings.providers.items()
        },
    )


def anthropic(settings: Settings) -> Upstream:
    """Return the Messages API that Claude Code asks; ConfigurationError for a bad address."""
    key = settings.anthropic_api_key
    return Upstream(settings.anthropic_base_url, key.get_secret_value() if key else None)


def environment_rule(settings: Settings) -> EnvironmentRule:
    """Return which variables agents may name."""
    return EnvironmentRule(settings.agent_environment, settings.reserved)


def child_user(settings: Settings, *, make: bool = True) -> ChildUser:
    """Return who child processes of agents run as: for root another user, else ourselves.

    That user is made the first time, unless `make` is false, where no other is set. Raises
    ConfigurationError.
    """
    wanted = settings.agent_user
    if os.geteuid() != 0:
        if wanted is not None and _user_of(wanted).user != os.geteuid():
            raise ConfigurationError(
                f"CELERIAC_AGENT_USER is {wanted}, but only root can run agents as another user. "
                "Leave it out, or run the worker as that user."
            )
        return OURSELVES
    if wanted is None:
        name, ids = AGENT_USER, _default_user(make=make)
    else:
        name, ids = wanted, _user_of(wanted)
    if ids.user == 0:
        return OURSELVES  # an administrator said so
    hindrance = obstacle(ids)
    if hindrance:
        raise ConfigurationError(
            f"Agents can't run as the user {name} (CELERIAC_AGENT_USER): {hindrance}. "
            "Run the worker as a normal user, or set CELERIAC_AGENT_USER=root to let agents run as "
            "root, with every right that the worker has."
        )
    return ChildUser(name, ids)


def _default_user(*, make: bool) -> UserIds:
    try:
        return system_user(AGENT_USER) if make else named_user(AGENT_USER)
    except (OSError, ValueError):
        return UserIds(_SPARE_ID, _SPARE_ID)


def _user_of(text: str) -> UserIds:
    try:
        return named_user(text)
    except ValueError as error:
        raise ConfigurationError(f"CELERIAC_AGENT_USER: {error}.") from error


def advice(settings: Settings, environment: Mapping[str, str]) -> Advice:
    """Return what looks at new agents; `environment` is that of this process."""
    return Advice(
        providers=providers(settings),
        commands=settings.commands,
        modules=(*settings.agent_modules, *declared_modules()),
        search_path=environment.get("PATH", ""),
    )


def confinement(settings: Settings, environment: Mapping[str, str]) -> Confinement:
    """Return the bounds of child processes; `environment` is the worker's own.

    Raises ConfigurationError.
    """
    return Confinement(environment, environment_rule(settings), child_user(settings))


def tool_servers(settings: Settings, bounds: Confinement) -> ToolServers:
    """Return the MCP servers that agents may use; ConfigurationError for a variable not set."""
    servers = settings.mcp_servers
    return ToolServers.configured(
        programs={
            name: (server.command, server.environment)
            for name, server in servers.items()
            if server.command is not None
        },
        addresses={
            name: (server.url, server.headers)
            for name, server in servers.items()
            if server.url is not None
        },
        confinement=bounds,
        guard=settings.outbound.guard(),
    )
