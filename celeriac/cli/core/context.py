"""The context of commands: the connection to the API, its output, and the server programs.

`celeriac api`, `worker` and `beat` each run one program in the foreground.
"""

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, NoReturn, ParamSpec, get_args

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, Home, Json, ServerHome
from celeriac.cli.core.output import CommandError, ExitCode, Output
from celeriac.cli.ids import IdOf
from celeriac.cli.local import log_directory, read_settings
from celeriac.cli.server import Server, find_server, has_own_key

if TYPE_CHECKING:
    from celeriac.client import Client, ClientError
    from celeriac.settings import Settings


_P = ParamSpec("_P")


class CommandContext:
    """One command's talk with the server. The connection is made when it is first needed."""

    def __init__(self, server: Server, home: Path | None, output: Output, stack: ExitStack) -> None:
        self.server = server
        self.output = output
        self._home = home
        self._stack = stack
        self._client: Client | None = None

    @property
    def client(self) -> "Client":
        """The SDK's client of this server."""
        if self._client is None:
            from celeriac.client import Client

            self._client = self._stack.enter_context(
                Client(self.server.url, api_key=self.server.api_key)
            )
        return self._client

    @property
    def logs(self) -> Path:
        """Where programs of this home write their log files."""
        return log_directory(self._home)


def open_client(command: Callable[Concatenate[CommandContext, _P], None]) -> Callable[..., None]:
    """Make a command of a function that takes a Session first.

    The command gets the options that say which server is meant, and `--json`. Parameters that are
    marked with `IdOf` reach it as whole ids.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    ids = {each.name: mark for each in own if (mark := _mark(each)) is not None}

    @wraps(command)
    def with_session(
        *args: Any,
        api_url: str | None,
        api_key: str | None,
        home: Path | None,
        as_json: bool,
        **kwargs: Any,
    ) -> None:
        from celeriac.client import ClientError

        server = find_server(home, api_url, api_key)
        with ExitStack() as stack:
            session = CommandContext(server, home, Output(as_json=as_json), stack)
            try:
                for name, mark in ids.items():
                    if kwargs[name] is not None:
                        kwargs[name] = mark.resolve(session.client, kwargs[name])
                command(session, *args, **kwargs)
            except ClientError as error:
                raise server_errors(error, cure=refused_key_cure(error, home, api_key)) from error

    every = [*own, *_SHARED]
    with_session.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_session.__annotations__ = {each.name: each.annotation for each in every}
    del with_session.__wrapped__  # Typer reads the signature that is given here
    return with_session


def refused_key_cure(error: "ClientError", home: Path | None, api_key: str | None) -> str | None:
    """Return the advice for a refused key of CELERIAC_API_KEY that hides the home's own."""
    if error.status != HTTPStatus.UNAUTHORIZED or api_key != os.environ.get("CELERIAC_API_KEY"):
        return None
    if api_key is None or not has_own_key(home):
        return None
    return (
        "The key is that of the variable CELERIAC_API_KEY, which is used instead of the home's own "
        "key. `unset CELERIAC_API_KEY` to use the home's."
    )


def server_errors(error: "ClientError", *, cure: str | None = None) -> CommandError:
    """Return what the client's error means for a command."""
    lines = [error.message]
    if len(error.fields) > 1:
        lines += [f"       {each.field}: {each.message}" for each in error.fields]
    return CommandError(
        "\n".join(lines),
        exit_code=_exit_code(error.status, error.code),
        problem=error.code,
        cure=cure,
    )


def _exit_code(status: int | None, code: str) -> ExitCode:
    if status is None:
        return ExitCode.UNAVAILABLE if code == "unreachable" else ExitCode.FAILED
    return _BY_STATUS.get(status, ExitCode.FAILED)


_BY_STATUS = {
    400: ExitCode.USAGE,
    413: ExitCode.USAGE,
    415: ExitCode.USAGE,
    422: ExitCode.USAGE,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
}


def _mark(parameter: inspect.Parameter) -> IdOf | None:
    marks = (each for each in get_args(parameter.annotation) if isinstance(each, IdOf))
    return next(marks, None)


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_SHARED = (
    _option("as_json", Json, default=False),
    _option("api_url", ApiUrl, default=None),
    _option("api_key", ApiKey, default=None),
    _option("home", ServerHome, default=None),
)


API_FACTORY = "celeriac.api.core.app:from_environment"
API_PROTOCOL = "celeriac.api.core.protocol:LimitedProtocol"


def api(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; CELERIAC_API_HOST, or 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on, 0 for any; CELERIAC_API_PORT, or 8321."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes share the port.")] = 1,
    home: Home = None,
) -> None:
    """Serve the HTTP API in the foreground.

    Checks the database first and says what is wrong with it. Where neither
    DATABASE_URL nor REDIS_URL is set, the servers of the stack that runs in
    the home are used.

    Examples:
      celeriac api
      celeriac api --host 0.0.0.0 --port 80 --workers 4
    """
    import uvicorn

    from celeriac.cli.system import choose_port
    from celeriac.wiring.core import secret_key

    settings = _prepare(home, "The API", broker_needed=False)
    secret_key(settings)
    address = host or settings.api.host
    os.environ["CELERIAC_API_HOST"] = address  # the application answers for it
    uvicorn.run(
        API_FACTORY,
        factory=True,
        host=address,
        port=choose_port(address, settings.api.port if port is None else port),
        workers=workers,
        log_config=None,  # the app sets up our own pipeline
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        http=API_PROTOCOL,
        ws="none",
    )


Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        "-I",
        metavar="MODULE",
        help="A module with Celery tasks of your own to load; may be given more than once.",
    ),
]


def worker(context: typer.Context, include: Include = None, home: Home = None) -> None:
    """Run a worker in the foreground: it takes executions from the queues.

    Checks database and broker first and says what is wrong with them, then
    becomes `celery -A celeriac worker`. Every option of Celery's worker may be
    given. What isn't gets these defaults: 100 threads, all of Celeriac's queues,
    no gossip and no mingle.

    Messages of tasks that it doesn't know are left to workers that do: load your
    own Celery tasks with --include, or CELERIAC_CELERY_INCLUDE.

    SIGTERM lets what runs finish and hands back what takes too long
    (CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT, 30 s).

    Examples:
      celeriac worker
      celeriac worker --concurrency 300
      celeriac worker --pool prefork --autoscale 8,2
      celeriac worker -Q task_execution,reports -n reports@%h
      celeriac worker --include warehouse
      celery -A celeriac worker --help       # the options of Celery
    """
    from celeriac.adapters.celery_queue import QUEUES
    from celeriac.cli.core.arguments import check_modules, include_arguments, worker_arguments

    _help_if_asked(context)
    arguments = worker_arguments([*include_arguments(include or ()), *context.args], QUEUES)
    settings = _prepare(home, "The worker", broker_needed=True)
    check_modules(settings.celery.include, "CELERIAC_CELERY_INCLUDE")
    _become_celery("worker", arguments)


def beat(context: typer.Context, home: Home = None) -> None:
    """Run the keeper in the foreground: it sends what is due and rescues what was lost.

    At least one must run; any number may. Checks database and broker first,
    then becomes `celery -A celeriac beat`, whose options may be given.

    Examples:
      celeriac beat
      celeriac beat --loglevel debug
    """
    _help_if_asked(context)
    _prepare(home, "Beat", broker_needed=True)
    _become_celery("beat", context.args or ["--loglevel=INFO"])


_GRACE_SECONDS = 10


def _help_if_asked(context: typer.Context) -> None:
    """Show the help where `-h` stands alone among what is handed on to Celery."""
    if "-h" in context.args:
        typer.echo(context.get_help())
        raise typer.Exit


def _prepare(home: Path | None, program: str, *, broker_needed: bool) -> "Settings":
    """Check what the program needs, and let it see the home that was meant."""
    from celeriac.cli.doctor.checks import check_servers

    if home is not None:
        os.environ["CELERIAC_HOME"] = str(home.resolve())
    settings = read_settings(home)
    for doubt in check_servers(settings, program=program, broker_needed=broker_needed):
        typer.echo(f"warning: {doubt.subject}: {doubt.message}. {doubt.cure}", err=True)
    return settings


def _become_celery(program: str, arguments: list[str]) -> NoReturn:
    """Replace this process: signals and exit codes are Celery's own from here."""
    from celeriac.cli.core.arguments import CELERY

    sys.stdout.flush()
    sys.stderr.flush()
    # Celery's banner is for people; who reads the log as JSON lines gets nothing else
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, *CELERY, *quiet, "-A", "celeriac", program, *arguments]
    os.execv(sys.executable, command)
