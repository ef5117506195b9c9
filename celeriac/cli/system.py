"""The whole system on one machine: servers, API, worker and beat under one supervisor."""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
import structlog

from celeriac.adapters.celery_queue import QUEUES
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.core.server import choose_port, key_file, load_own_settings
from celeriac.cli.programs import CELERY, check_modules, node_name, worker_arguments
from celeriac.db import migrate, workers
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError, UnauthenticatedError
from celeriac.embedded.endpoints import Endpoints, find_running_stack
from celeriac.embedded.errors import AlreadyRunningError, ServerFailedError
from celeriac.embedded.home import Home, write_private
from celeriac.embedded.output import Terminal, read_last_lines
from celeriac.embedded.process import ProcessSpec
from celeriac.embedded.stack import Stack, StackOptions
from celeriac.embedded.supervisor import Supervisor
from celeriac.services.accounts import Accounts
from celeriac.services.authentication import Authenticate
from celeriac.settings import Settings
from celeriac.wiring.core import SECRET_KEY_NAME

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound


def reachable_url(host: str, port: int) -> str:
    """Return the URL of an API that listens on `host`, as seen from this machine."""
    if host in _EVERYWHERE:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_WORKER = "worker"
_API_GRACE = 20.0
_BEAT_GRACE = 15.0
_HAND_BACK_SECONDS = 15.0
"""Seconds after the soft shutdown for handing back executions that did not finish."""
_REFUSAL = "error: "
_REFUSAL_LINES = 100
"""The last lines of a program that ended with ExitCode.USAGE, which are searched for its error."""
_CHECK_SECONDS = 2.0
_FRESH_SECONDS = 30.0


_PYTHON = (sys.executable, "-P", "-m")
_CELERY = (
    sys.executable,
    "-W",
    # a warning about pickled messages, which are never accepted
    "ignore:You're running the worker with superuser privileges",
    *CELERY,
    "--quiet",
    "-A",
    "celeriac",
)


def _check_api(url: str) -> str | None:
    """Return None if the API answers, else the reason."""
    try:
        with httpx.Client(trust_env=False, timeout=_CHECK_SECONDS) as client:
            answer = client.get(f"{url}/health/live")
    except httpx.HTTPError as error:
        return str(error)
    return None if answer.is_success else f"it answers {answer.status_code}"


def _check_worker(database: Database, supervisor: Supervisor) -> str | None:
    """Return None if the current worker has reported itself to the database, else the reason.

    The row of an earlier worker doesn't count, although it may still be fresh after a crash.
    """
    pid = supervisor.process(_WORKER).pid
    host = socket.gethostname()
    try:
        with database.autocommit() as connection:
            found = workers.live(connection, within_seconds=_FRESH_SECONDS)
    except DatabaseUnavailableError as error:
        return error.message
    here = [row.pid for row in found if row.hostname.endswith(f"@{host}")]
    if any(_belongs(each, pid) for each in here):
        return None
    return "it has not reported itself to the database"


def _belongs(pid: int, leader: int | None) -> bool:
    """Return whether `pid` is the worker itself or, with prefork, a child of it."""
    try:
        return pid == leader or psutil.Process(pid).ppid() == leader
    except psutil.NoSuchProcess:
        return False


logger = structlog.get_logger(__name__)


def ensure_admin_key(database: Database, home: Home, secret_key: str) -> str:
    """Return the home's key, a new one if there is none or the database doesn't know it.

    Raises DatabaseUnavailableError, HomeUnusableError, and ConflictError if the user `admin` exists
    and is not an administrator.
    """
    path = key_file(home)
    if path.exists():
        token = path.read_text(encoding="utf-8").strip()
        try:
            Authenticate(database, secret_key)(token, request_id=None)
        except UnauthenticatedError as error:
            logger.info("admin_key.replaced", reason=error.message)
        else:
            return token
    made = Accounts(database, secret_key).bootstrap_admin(key_name=f"celeriac up in {home.root}")
    write_private(path, made.token)
    return made.token


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemOptions:
    """Options of the system; None means the value of the settings.

    `local_model` and `models` as in `StackOptions`. `worker_options` are Celery's own. `reload`
    restarts the worker when its code changes; None does so unless the settings disable it.
    `variables` override the environment of API, worker and beat.
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
    """A running system: its addresses and its supervisor."""

    home: Home
    api_url: str
    api_key: str = field(repr=False)
    endpoints: Endpoints
    supervisor: Supervisor
    count_running: Callable[[], int]
    """Counts the executions that its workers run. Raises DatabaseUnavailableError."""
    stop_seconds: float
    """Seconds that a stopping worker waits for them."""
    has_openai: bool = False
    """Whether workers have an OpenAI key."""

    @property
    def key_file(self) -> Path:
        """The file with the administrator's API key."""
        return key_file(self.home)


@contextmanager
def running_system(options: SystemOptions, terminal: Terminal) -> Iterator[System]:
    """Start everything, yield the system for the caller to `supervisor.run`, and stop everything.

    SIGINT, SIGTERM and SIGHUP request a stop. Raises what `Stack` raises, and CommandError if the
    API can't listen.
    """
    # not load_settings, which uses a stack that runs in the home: it is started here
    settings = load_own_settings(options.home)
    check_modules(settings.celery.include, "CELERIAC_CELERY_INCLUDE")
    home = Home.at(settings.home)
    if running := find_running_stack(home):  # it may use the port
        raise AlreadyRunningError(home.root, running.supervisor.pid, api_url=running.api_url)
    host = options.host or settings.api.host
    port = choose_port(host, settings.api.port if options.port is None else options.port)
    stack = Stack(_stack_options(settings, options), terminal)
    with stack, stack.supervisor.handling_signals():
        endpoints = stack.start(partial(_upgrade, settings, stack.home))
        secret = settings.secret_key
        secret_key = secret.get_secret_value() if secret else stack.home.secret(SECRET_KEY_NAME)
        variables = {
            "CELERIAC_HOME": str(stack.home.root),
            "CELERIAC_SECRET_KEY": secret_key,
            # `up` shows it to people, unless another format is set
            "CELERIAC_LOG_CONSOLE": settings.log_console.replace("auto", "pretty"),
            "CELERIAC_WORKER_RELOAD": _reload(settings, options),
            "PYTHONUNBUFFERED": "1",
            **options.variables,
        }
        environment = {**os.environ, **endpoints.environment(), **variables}
        stop_seconds = settings.celery.worker_soft_shutdown_timeout
        address = settings.direct_database() if settings.database_url else endpoints.database_url
        database = Database(address, connections=1, application="celeriac-up")
        try:
            api_key = ensure_admin_key(database, stack.home, secret_key)
            url = reachable_url(host, port)
            ready = partial(_check_worker, database, stack.supervisor)
            _start(
                stack.supervisor, _programs(options, (host, port), environment, ready, stop_seconds)
            )
            stack.publish(endpoints, api_url=url)
            yield System(
                home=stack.home,
                api_url=url,
                api_key=api_key,
                endpoints=endpoints,
                supervisor=stack.supervisor,
                count_running=partial(_count_running, database),
                stop_seconds=stop_seconds,
                has_openai=settings.openai_api_key is not None,
            )
        finally:
            database.close()


def _upgrade(settings: Settings, home: Home, url: str) -> None:
    """Upgrade the database at `url`; one that can't be is named with its home, if it is in one."""
    try:
        migrate.upgrade(
            settings.direct_database() if settings.database_url else url,
            partition_days=settings.retention.partition_days,
        )
    except migrate.UnknownSchemaError as error:
        if settings.database_url:
            raise
        raise CommandError(
            error.message,
            cure=f"Choose another home with --home, or begin with an empty database: remove "
            f"{home.postgres}. That deletes all agents, tasks and executions in it.",
            problem=error.code,
        ) from error


def _programs(
    options: SystemOptions,
    address: tuple[str, int],
    environment: Mapping[str, str],
    worker_ready: Callable[[], str | None],
    stop_seconds: float,
) -> Sequence[ProcessSpec]:
    """Return worker, beat and API in the order of their start; they stop in reverse order."""
    host, port = address
    return (
        ProcessSpec(
            name=_WORKER,
            argv=(*_CELERY, "worker", *worker_arguments(options.worker_options, QUEUES)),
            env=environment,
            ready=worker_ready,
            stop_grace=stop_seconds + _HAND_BACK_SECONDS,
        ),
        ProcessSpec(
            name="beat",
            argv=(*_CELERY, "beat", "--loglevel=INFO"),
            env=environment,
            stop_grace=_BEAT_GRACE,
        ),
        ProcessSpec(
            name="api",
            argv=(*_PYTHON, "celeriac", "api", f"--host={host}", f"--port={port}"),
            env=environment,
            ready=partial(_check_api, reachable_url(host, port)),
            stop_grace=_API_GRACE,
        ),
    )


def _start(supervisor: Supervisor, programs: Sequence[ProcessSpec]) -> None:
    """Start the programs. Raises ServerFailedError, and UsageProblemError for a wrong setting."""
    try:
        supervisor.start(programs)
    except ServerFailedError as error:
        if error.exit_code != ExitCode.USAGE or error.log is None:
            raise
        lines = read_last_lines(error.log, _REFUSAL_LINES)
        starts = [number for number, line in enumerate(lines) if line.startswith(_REFUSAL)]
        if not starts:
            raise
        refusal = "\n".join(lines[starts[-1] :]).removeprefix(_REFUSAL)
        raise UsageProblemError(f"{error.name}: {refusal}") from error


def _count_running(database: Database) -> int:
    with database.autocommit() as connection:
        return workers.running_on(connection, f"{node_name()}@")


def _stack_options(settings: Settings, options: SystemOptions) -> StackOptions:
    return StackOptions(
        home=settings.home,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        broker_url=settings.broker_url() if settings.redis_url else settings.celery_broker_url,
        result_backend=(
            settings.result_backend() if settings.redis_url else settings.celery_result_backend
        ),
        model_base_url=settings.local_model_url,
        local_model=options.local_model,
        models=options.models or settings.models,
    )


def _reload(settings: Settings, options: SystemOptions) -> str:
    wanted = options.reload
    if wanted is None:
        is_set = "reload" in settings.worker.model_fields_set
        wanted = settings.worker.reload if is_set else True
    return str(wanted).lower()
