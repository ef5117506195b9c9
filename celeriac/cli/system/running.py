"""Starts the whole system in one home and keeps it, until it is told to stop."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from celeriac.cli.arguments import check_modules, node_name
from celeriac.cli.server import key_file
from celeriac.cli.system.accounts import ensure_admin_key
from celeriac.cli.system.ports import choose_port, reachable_url
from celeriac.cli.system.programs import WORKER, Programs, WorkerReady
from celeriac.db import migrate, workers
from celeriac.db.engine import Database
from celeriac.embedded.endpoints import Endpoints, find_running_stack
from celeriac.embedded.errors import AlreadyRunningError
from celeriac.embedded.home import Home
from celeriac.embedded.stack import Stack, StackOptions
from celeriac.embedded.supervisor import Supervisor
from celeriac.embedded.terminal import Terminal
from celeriac.settings import Settings
from celeriac.wiring import SECRET_KEY_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemOptions:
    """How to run the system; None takes what the settings say.

    `local_model` and `models` as in `StackOptions`. `worker_options` are Celery's own. `reload`
    starts the worker anew when its code changes; None does so unless the settings say otherwise.
    `variables` are set for API, worker and beat over what the environment says.
    """

    home: Path | None = None
    host: str | None = None
    port: int | None = None
    local_model: bool | None = None
    models: Path | None = None
    worker_options: tuple[str, ...] = ()
    reload: bool | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that runs: where it is, and who keeps it running."""

    home: Home
    api_url: str
    api_key: str = field(repr=False)
    endpoints: Endpoints
    supervisor: Supervisor
    count_running: Callable[[], int]
    """Counts the executions that its workers run now. Raises DatabaseUnavailableError."""
    stop_seconds: float
    """So long a stopping worker lets them finish."""
    has_openai: bool = False
    """Whether workers have a key of OpenAI's."""

    @property
    def key_file(self) -> Path:
        """Where the administrator's API key is kept."""
        return key_file(self.home)

    @property
    def worker_pid(self) -> int | None:
        """The pid of the worker that runs now."""
        return self.supervisor.process(WORKER).pid


@contextmanager
def running_system(options: SystemOptions, terminal: Terminal) -> Iterator[System]:
    """Start everything, yield the system for the caller to `supervisor.run`, and stop it all.

    Within it SIGINT, SIGTERM and SIGHUP are requests to stop. Raises what `Stack` raises, and
    CommandError where the API can't listen.
    """
    # not load_settings: the stack that runs in this home is the one started here
    settings = Settings.load(**({"home": options.home} if options.home else {}))
    check_modules(settings.celery.include, "CELERIAC_CELERY_INCLUDE")
    _refuse_second(Home.at(settings.home))
    host = options.host or settings.api.host
    port = choose_port(host, settings.api.port if options.port is None else options.port)
    stack = Stack(_stack_options(settings, options), terminal)
    with stack, stack.supervisor.handling_signals():
        endpoints = stack.start()
        secret = settings.secret_key
        secret_key = secret.get_secret_value() if secret else stack.home.secret(SECRET_KEY_NAME)
        variables = {
            "CELERIAC_HOME": str(stack.home.root),
            "CELERIAC_SECRET_KEY": secret_key,
            "CELERIAC_LOG_CONSOLE": _console(settings),
            "CELERIAC_WORKER_RELOAD": _reload(settings, options),
            "PYTHONUNBUFFERED": "1",
            **options.variables,
        }
        programs = Programs(
            environment={**os.environ, **endpoints.environment(), **variables},
            host=host,
            port=port,
            worker_options=options.worker_options,
            soft_shutdown=settings.celery.worker_soft_shutdown_timeout,
        )
        database = Database(endpoints.database_url, connections=1, application="celeriac-up")
        try:
            api_key = _prepare_database(database, stack.home, secret_key)
            ready = WorkerReady(database, lambda: stack.supervisor.process(WORKER).pid)
            stack.supervisor.start(programs.specs(ready))
            url = reachable_url(host, port)
            stack.publish(endpoints, api_url=url)
            yield System(
                home=stack.home,
                api_url=url,
                api_key=api_key,
                endpoints=endpoints,
                supervisor=stack.supervisor,
                count_running=partial(_count_running, database),
                stop_seconds=settings.celery.worker_soft_shutdown_timeout,
                has_openai=settings.openai_api_key is not None,
            )
        finally:
            database.close()


def _count_running(database: Database) -> int:
    with database.statement() as connection:
        return workers.running_on(connection, f"{node_name()}@")


def _refuse_second(home: Home) -> None:
    """Raise AlreadyRunningError where this home's stack runs, which may hold the port."""
    stack = find_running_stack(home)
    if stack is not None:
        raise AlreadyRunningError(home.root, stack.supervisor.pid, api_url=stack.api_url)


def _stack_options(settings: Settings, options: SystemOptions) -> StackOptions:
    return StackOptions(
        home=settings.home,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        broker_url=settings.celery_broker_url,
        result_backend=settings.celery_result_backend,
        model_base_url=settings.local_model_url,
        local_model=options.local_model,
        models=options.models or settings.models,
    )


def _prepare_database(database: Database, home: Home, secret_key: str) -> str:
    """Bring the schema up to date and return the administrator's key."""
    with database.transaction() as connection:
        migrate.upgrade(connection)
    return ensure_admin_key(database, home, secret_key)


def _reload(settings: Settings, options: SystemOptions) -> str:
    wanted = options.reload
    if wanted is None:
        is_set = "reload" in settings.worker.model_fields_set
        wanted = settings.worker.reload if is_set else True
    return str(wanted).lower()


def _console(settings: Settings) -> str:
    """Their output is a file that `up` shows to people: lines for people, unless told otherwise."""
    return "pretty" if settings.log_console == "auto" else settings.log_console
