"""The composition root: from settings to working parts, for every program and for the tests."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from celeriac.adapters.celery_app import CeleryOptions, create_app
from celeriac.adapters.celery_queue import EXECUTE_TASK, CeleryTaskQueue
from celeriac.adapters.celery_tasks import CeleryPlainTasks
from celeriac.adapters.redis_events import CancelListener, RedisLiveEvents
from celeriac.adapters.redis_health import RedisPing
from celeriac.adapters.redis_watch import Watcher
from celeriac.agents.pricing import Prices
from celeriac.agents.providers import Providers
from celeriac.agents.registry import Registry
from celeriac.db.engine import Database
from celeriac.domain.errors import ConfigurationError
from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home
from celeriac.kit.loop import LoopThread
from celeriac.logs import LogOptions, Service
from celeriac.services.accounts import Accounts
from celeriac.services.active import ActiveAttempts
from celeriac.services.agents import Agents
from celeriac.services.attempt import StopReason
from celeriac.services.authenticate import Authenticate
from celeriac.services.cancel import Cancel
from celeriac.services.celery_tasks import CeleryTasks
from celeriac.services.claim import ClaimAttempt
from celeriac.services.dispatch import Dispatch
from celeriac.services.execute import Execute, Parts
from celeriac.services.finish import Finish
from celeriac.services.health import HealthChecks
from celeriac.services.heartbeat import Heartbeat
from celeriac.services.notebook import Notebook
from celeriac.services.plans import Plans
from celeriac.services.queries import Queries
from celeriac.services.recover import Recover
from celeriac.services.replay import Replay
from celeriac.services.report import Reports
from celeriac.services.submit import Submit
from celeriac.services.tasks import Tasks
from celeriac.settings import Settings

SECRET_KEY_NAME = "secret_key"  # noqa: S105 - the name of a file
"""The home's secret that keys the hashes of API keys."""

_MISSED_HEARTBEATS = 3
"""After so many a worker counts as gone."""


@dataclass(frozen=True, slots=True)
class Container:
    """The parts that every program shares. Made after a fork, never before it."""

    settings: Settings
    database: Database
    queue: CeleryTaskQueue
    live: RedisLiveEvents
    watcher: Watcher
    plans: Plans
    dispatch: Dispatch
    submit: Submit
    cancel: Cancel
    replay: Replay
    recover: Recover

    def close(self) -> None:
        """Send what is still to be told and close all connections."""
        self.live.close()
        self.database.close()


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


def build(settings: Settings, *, service: str, connections: int, app: Any = None) -> Container:
    """Put the parts together for one process; nothing is connected yet.

    `app` is the Celery app of a worker or beat; others publish with one of their own. Raises
    ConfigurationError where an address is missing.
    """
    database = Database(
        settings.require_database(), connections=connections, application=f"celeriac-{service}"
    )
    live = RedisLiveEvents(settings.require_redis())
    queue = CeleryTaskQueue(app or create_app(celery_options(settings, publisher=True)))
    plans = Plans(database)
    dispatch = Dispatch(database, queue, live)
    submit = Submit(database, plans, dispatch)
    return Container(
        settings=settings,
        database=database,
        queue=queue,
        live=live,
        watcher=Watcher(settings.require_redis()),
        plans=plans,
        dispatch=dispatch,
        submit=submit,
        cancel=Cancel(database, live),
        replay=Replay(database, submit),
        recover=Recover(database, queue, live),
    )


@dataclass(frozen=True, slots=True)
class Machinery:
    """What runs executions in one worker process."""

    execute: Execute
    active: ActiveAttempts
    heartbeat: Heartbeat
    notebook: Notebook
    listener: CancelListener
    loop: LoopThread
    runners: Registry

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self.listener.close()
        self.runners.close(self.loop)
        self.loop.close()


def build_machinery(container: Container, *, worker: str, closing: Callable[[], bool]) -> Machinery:
    """Put together what a worker process named `worker` needs; its threads start here."""
    settings = container.settings
    active = ActiveAttempts()
    notebook = Notebook(container.database, active, container.live)
    loop = LoopThread()
    runners = Registry(
        providers=providers(settings),
        prices=Prices.load(settings.prices_file),
        agent_modules=settings.agent_modules,
        environment=os.environ,
    )
    lease_seconds = settings.worker.lease_seconds
    parts = Parts(
        plans=container.plans,
        claim=ClaimAttempt(container.database, worker=worker, lease_seconds=lease_seconds),
        finish=Finish(container.database, container.live),
        runners=runners,
        active=active,
        notebook=notebook,
        live=container.live,
        loop=loop,
        workdirs=settings.home / "work",
        worker=worker,
        lease_seconds=lease_seconds,
        closing=closing,
    )
    listener = CancelListener(settings.require_redis(), _canceller(active))
    listener.start()
    return Machinery(
        execute=Execute(parts),
        active=active,
        heartbeat=Heartbeat(container.database, active, lease_seconds=lease_seconds),
        notebook=notebook,
        listener=listener,
        loop=loop,
        runners=runners,
    )


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


@dataclass(frozen=True, slots=True)
class Desk:
    """What answers requests over HTTP, besides the parts that every program shares."""

    authenticate: Authenticate
    accounts: Accounts
    agents: Agents
    tasks: Tasks
    queries: Queries
    reports: Reports
    celery_tasks: CeleryTasks
    health: HealthChecks
    redis_ping: RedisPing

    def close(self) -> None:
        """Close what it opened itself."""
        self.redis_ping.close()


def build_accounts(container: Container) -> Accounts:
    """Return the accounts; raises ConfigurationError where there is no secret key."""
    return Accounts(container.database, _secret_key(container.settings))


def build_desk(container: Container) -> Desk:
    """Put together what the HTTP API needs; nothing is connected yet.

    Raises ConfigurationError where there is no secret key.
    """
    settings = container.settings
    queries = Queries(container.database)
    redis_ping = RedisPing(settings.require_redis())
    celery = CeleryPlainTasks(celery_options(settings, publisher=True))
    return Desk(
        authenticate=Authenticate(container.database, _secret_key(settings)),
        accounts=build_accounts(container),
        agents=Agents(container.database),
        tasks=Tasks(container.database),
        queries=queries,
        reports=Reports(queries),
        celery_tasks=CeleryTasks(
            container.database,
            celery,
            allowed=settings.api.celery_task_allow_list,
            run_task=EXECUTE_TASK,
        ),
        health=HealthChecks(
            container.database,
            redis_ping,
            worker_seconds=_MISSED_HEARTBEATS * settings.worker.heartbeat_seconds,
        ),
        redis_ping=redis_ping,
    )


def _secret_key(settings: Settings) -> str:
    if settings.secret_key is None:
        raise ConfigurationError(
            "CELERIAC_SECRET_KEY is not set. It keys the hashes of API keys: set it to at least 32 "
            "random characters, the same for every process; `celeriac up` makes one in its home."
        )
    return settings.secret_key.get_secret_value()


def _canceller(active: ActiveAttempts) -> Callable[[list[UUID]], None]:
    return lambda ids: active.stop(ids, StopReason.CANCELLED)


def log_options(settings: Settings, service: Service) -> LogOptions:
    """Return how this process writes its log."""
    return LogOptions(
        service=service,
        level=settings.log_level,
        directory=settings.logs,
        console=settings.log_console,
        execution_files=settings.log_execution_files,
    )
