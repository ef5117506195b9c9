"""Builds what all programs share: options from settings, prices, runners, core services."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from celeriac.adapters.celery_calls import CeleryCallEnding
from celeriac.adapters.celery_queue import CeleryOptions, CeleryTaskQueue, create_app
from celeriac.adapters.object_store import ObstoreObjects, S3Options, open_store
from celeriac.adapters.redis_client import KEY_PREFIX
from celeriac.adapters.redis_events import RedisLiveEvents
from celeriac.adapters.redis_watch import Watcher
from celeriac.adapters.secret_sources import (
    CommandSource,
    FileSource,
    SecretSources,
    Source,
    VariableSource,
)
from celeriac.agents.advice import Advice
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.mcp.servers import Endpoint, ToolServers, address, program
from celeriac.agents.models import AnthropicEndpoint, Prices, Providers, Tokens
from celeriac.agents.python.functions import declared_modules
from celeriac.agents.registry import Registry
from celeriac.db.engine import LOCK_SECONDS, STATEMENT_SECONDS, Database, Pooler
from celeriac.domain.artifacts import ArtifactBounds
from celeriac.domain.bulk_actions import BulkAction
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import ConfigurationError
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.usage import Rate
from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home
from celeriac.kit.processes import UserIds
from celeriac.kit.users import OURSELVES, ChildUser, named_user, obstacle, system_user
from celeriac.logs import LogOptions, Service
from celeriac.services.approvals.ask import Expire
from celeriac.services.bulk_jobs.actions import Performer, performers
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.calls import EndCalls
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.expiry import EndExpired
from celeriac.services.executions.limits import TaskLimits
from celeriac.services.executions.queries import Queries
from celeriac.services.executions.repeat import Repeat
from celeriac.services.executions.rescue import DatabaseView, Recover
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import Submit
from celeriac.services.files.working import WorkingFiles
from celeriac.services.storage_paths import StoragePaths
from celeriac.services.workflows.advance import Advance
from celeriac.services.workflows.plans import Plans
from celeriac.services.workflows.spawn import Spawn
from celeriac.settings import Settings
from celeriac.wiring.confinement import StricterSandbox, checked_sandbox, network_bounds
from celeriac.wiring.repositories import repositories, repository_rule

SECRET_KEY_NAME = "secret_key"  # noqa: S105 - the name of a file
"""The file in the home with the secret that keys the hashes of API keys."""

AGENT_USER = "celeriac-agent"
"""The system user that agents run as if the worker runs as root."""

_LONGEST_LOCK = 2.0
_LOCKS_IN_A_LEASE = 8

_SPARE_ID = 65_529
"""The user id if no user can be created: distributions reserve it and never assign it."""


_MISSED_HEARTBEATS = 3


def load_settings(home: Path | None = None) -> Settings:
    """Read the environment and, for servers it does not name, the stack running in the home.

    Raises ConfigurationError naming what is wrong. Servers that neither names stay None.
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
    """Return the options of the Celery app.

    A `publisher` (API, beat, CLI) times out after a second without an answer of the broker; a
    worker's sockets wait for messages and must not.
    """
    celery = settings.celery
    return CeleryOptions(
        broker_url=settings.broker_url(),
        result_backend=settings.result_backend(),
        visibility_timeout=celery.visibility_timeout,
        key_prefix=settings.redis_key_prefix,
        queue_type=celery.queue_type,
        delivery_limit=celery.delivery_limit,
        publish_timeout=celery.publish_timeout if publisher else None,
        extra=celery.model_dump(
            exclude={"visibility_timeout", "queue_type", "delivery_limit", "publish_timeout"}
        ),
    )


def log_options(settings: Settings, service: Service) -> LogOptions:
    """Return the log options of this process."""
    return LogOptions(
        service=service,
        level=settings.log_level,
        directory=settings.logs,
        console=settings.log_console,
        execution_files=settings.log_execution_files,
    )


def places(settings: Settings) -> StoragePaths:
    """Return the directories of executions and sessions."""
    return StoragePaths(
        sessions=settings.home / "sessions",
        workdirs=settings.home / "work",
        logs=settings.logs,
        saved=settings.home / "saved",
    )


def object_store(settings: Settings) -> ObstoreObjects:
    """Return the object store; no server is asked. Raises ConfigurationError."""
    given = settings.objects
    key = given.secret_access_key
    return open_store(
        settings.object_store_url,
        S3Options(
            endpoint=given.endpoint,
            region=given.region,
            access_key_id=given.access_key_id,
            secret_access_key=key.get_secret_value() if key else None,
        ),
    )


def working_files(settings: Settings, database: Database) -> WorkingFiles:
    """Return what saves and restores working directories. Raises ConfigurationError."""
    bounds = ArtifactBounds(**settings.artifacts.model_dump())
    return WorkingFiles(database, object_store(settings), places(settings).saved, bounds)


def key_prefix(settings: Settings) -> str:
    """Return the beginning of the application's keys and channels in Redis."""
    return settings.redis_key_prefix or KEY_PREFIX


def pooler(settings: Settings) -> Pooler | None:
    """Return the pooler that DATABASE_URL leads to; None if it leads to the server."""
    if not settings.database.pooler:
        return None
    return Pooler(prepares=settings.database.pooler_prepares)


def worker_lock_seconds(settings: Settings) -> float:
    """Return how long a worker's statement waits for a lock before it is tried again.

    While it waits it may hold rows that others wait for.
    """
    return min(_LONGEST_LOCK, settings.worker.lease_seconds / _LOCKS_IN_A_LEASE)


def silent_after(settings: Settings) -> float:
    """Return the seconds without a report after which a worker is taken for gone."""
    return _MISSED_HEARTBEATS * settings.worker.heartbeat_seconds


def secret_key(settings: Settings) -> str:
    """Return the key of the hashes of API keys; raises ConfigurationError if there is none."""
    if settings.secret_key is None:
        raise ConfigurationError(
            "CELERIAC_SECRET_KEY is not set. It keys the hashes of API keys: set it to at least 32 "
            "random characters, the same for every process; `celeriac up` makes one in its home."
        )
    return settings.secret_key.get_secret_value()


def secret_cipher(settings: Settings) -> SecretCipher:
    """Return what encrypts stored secrets. Raises ConfigurationError without any key.

    `CELERIAC_SECRET_KEY` comes last, so that what it has encrypted stays readable.
    """
    keys = [each.get_secret_value() for each in settings.encryption_keys]
    if settings.secret_key is not None or not keys:
        keys.append(secret_key(settings))
    return SecretCipher(keys)


def secret_sources(settings: Settings) -> SecretSources:
    """Return what this machine's workers can read values of secrets from."""
    found: dict[str, Source] = {}
    for name, each in settings.secret_sources.items():
        if each.environment is not None:
            found[name] = VariableSource(each.environment)
        elif each.file is not None:
            found[name] = FileSource(each.file)
        elif each.command is not None:
            found[name] = CommandSource(each.command, each.timeout_seconds)
    return SecretSources(found, os.environ)


def rates(settings: Settings) -> dict[str, Rate]:
    """Return the providers' rate limits, by `provider` or `provider/model`."""
    return {
        name: Rate(limit.requests_per_minute, limit.tokens_per_minute)
        for name, limit in settings.provider_limits.items()
    }


def providers(settings: Settings) -> Providers:
    """Return the model providers. Raises ConfigurationError for a bad address."""
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


def environment_rule(settings: Settings) -> EnvironmentRule:
    """Return which environment variables agents may name."""
    return EnvironmentRule(settings.agent_environment, settings.reserved)


def child_user(settings: Settings, *, make: bool = True) -> ChildUser:
    """Return the user of agents' child processes: another one if this process is root.

    The default user is created the first time, unless `make` is false. Raises ConfigurationError.
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
        return OURSELVES  # configured so
    reason = obstacle(ids)
    if reason:
        raise ConfigurationError(
            f"Agents can't run as the user {name} (CELERIAC_AGENT_USER): {reason}. "
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


def advice(settings: Settings) -> Advice:
    """Return the checks of new agents."""
    return Advice(
        providers=providers(settings),
        commands=settings.commands,
        modules=(*settings.agent_modules, *declared_modules()),
        search_path=os.environ.get("PATH", ""),
        bounds=network_bounds(settings),
    )


def tool_servers(settings: Settings, bounds: Confinement) -> ToolServers:
    """Return the MCP servers of agents. Raises ConfigurationError for a variable not set."""
    endpoints: dict[str, Endpoint] = {}
    for name, server in settings.mcp_servers.items():
        if server.command is not None:
            endpoints[name] = program(server.command, server.environment, bounds)
        elif server.url is not None:
            endpoints[name] = address(name, server.url, server.headers, bounds.worker)
    return ToolServers(endpoints, guard=settings.outbound.guard())


@dataclass(frozen=True, slots=True)
class CoreServices:
    """The services that every program shares. Built after a fork, never before it."""

    settings: Settings
    database: Database
    queue: CeleryTaskQueue
    live: RedisLiveEvents
    watcher: Watcher
    specs: SpecCache
    dispatch: Dispatch
    submit: Submit
    cancel: Cancel
    limits: TaskLimits
    recover: Recover
    end_expired: EndExpired
    expire: Expire
    end_calls: EndCalls
    plans: Plans
    advance: Advance

    def close(self) -> None:
        """Send pending notifications and close all connections."""
        self.live.close()
        self.database.close()


def build(
    settings: Settings,
    *,
    service: str,
    connections: int,
    app: Any = None,
    lock_seconds: float = LOCK_SECONDS,
    statement_seconds: float = STATEMENT_SECONDS,
    call_due: Callable[[], None] = lambda: None,
) -> CoreServices:
    """Build the services of one process; nothing is connected yet.

    `app` is the Celery app of a worker or beat; other programs publish with one of their own.
    `call_due` is called when a run of a workflow has ended that a Celery task has started.
    Raises ConfigurationError if an address is missing.
    """
    database = Database(
        settings.require_database(),
        connections=connections,
        application=f"celeriac-{service}",
        lock_seconds=lock_seconds,
        statement_seconds=statement_seconds,
        pooler=pooler(settings),
    )
    live = RedisLiveEvents(settings.require_redis(), prefix=key_prefix(settings))
    app = app or create_app(celery_options(settings, publisher=True))
    queue = CeleryTaskQueue(app)
    specs = SpecCache(database)
    dispatch = Dispatch(database, queue, live)
    plans = Plans(database)
    advance = Advance(
        database,
        plans,
        Spawn(database, plans, specs, dispatch),
        dispatch,
        Cancel(database, live),
        call_due=call_due,
    )

    def ended_by_limit(execution_ids: Sequence[UUID]) -> None:
        advance.after_executions(execution_ids)
        dispatch.after_ends(execution_ids)

    # a policy that ends executions gives out the slots of its key anyway
    limits = TaskLimits(database, Cancel(database, live, ended_by_limit), live, ended_by_limit)

    def ended(execution_ids: Sequence[UUID]) -> None:
        ended_by_limit(execution_ids)
        if limits.after_ends(execution_ids):
            dispatch.try_to_send()

    cancel = Cancel(database, live, ended)
    return CoreServices(
        settings=settings,
        database=database,
        queue=queue,
        live=live,
        watcher=Watcher(
            settings.require_redis(), Queries(database).positions, prefix=key_prefix(settings)
        ),
        specs=specs,
        dispatch=dispatch,
        submit=Submit(
            database,
            specs,
            dispatch,
            settings.outbound.guard(),
            limits,
            repositories=repository_rule(settings),
        ),
        cancel=cancel,
        limits=limits,
        recover=Recover(database, queue, live, DatabaseView(settings.worker.lease_seconds), ended),
        end_expired=EndExpired(database, live, ended),
        expire=Expire(database, live, ended, advance.after),
        plans=plans,
        advance=advance,
        end_calls=EndCalls(database, CeleryCallEnding(app)),
    )


def build_performers(container: CoreServices) -> Mapping[BulkAction, Performer]:
    """Return the actions of bulk jobs."""
    database = container.database
    repeat = Repeat(database, container.specs)
    stored = places(container.settings)
    return performers(database, stored, container.cancel, repeat, container.dispatch)


def model_price(
    settings: Settings, prices: Prices, model: str, *, input_tokens: int, output_tokens: int
) -> Decimal | None:
    """Return the cost of tokens of `provider/model`; None if no price is known.

    Raises AgentMisconfiguredError for an invalid name.
    """
    choice = providers(settings).choose(model, reached=False)
    return prices.cost(choice, Tokens(input=input_tokens, output=output_tokens))


def build_runners(settings: Settings) -> Registry:
    """Return the runners; none is created yet. Raises ConfigurationError."""
    user = child_user(settings)
    workdirs = places(settings).workdirs
    bounds = Confinement(
        os.environ,
        environment_rule(settings),
        user,
        checked_sandbox(settings, user, workdirs),
        network_bounds(settings),
        StricterSandbox(settings, user, workdirs),
    )
    key = settings.anthropic_api_key
    if bounds.user.ids is not None:
        _close_places(places(settings))
    return Registry(
        providers=providers(settings),
        prices=Prices.load(settings.prices_file),
        agent_modules=(*settings.agent_modules, *declared_modules()),
        commands=settings.commands,
        tool_servers=tool_servers(settings, bounds),
        crewai_venv=settings.crewai,
        anthropic=AnthropicEndpoint(
            settings.anthropic_base_url, key.get_secret_value() if key else None
        ),
        sessions_root=places(settings).sessions,
        confinement=bounds,
        repositories=repositories(settings, bounds, places(settings)),
    )


def _close_places(found: StoragePaths) -> None:
    """Prevent agents, which own directories in these, from listing those of other users."""
    for directory in (found.workdirs, found.sessions):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & stat.S_IRWXO:
            directory.chmod(mode & ~stat.S_IRWXO)
