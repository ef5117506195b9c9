"""`celeriac api`, `worker`, `beat`: one program each, in the foreground."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from celeriac.cli.local import read_settings
from celeriac.cli.options import Home

if TYPE_CHECKING:
    from celeriac.settings import Settings

API_FACTORY = "celeriac.api.factory:from_environment"
API_PROTOCOL = "celeriac.api.protocol:LimitedProtocol"


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

    from celeriac.cli.system.ports import choose_port
    from celeriac.wiring.options import secret_key

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
    from celeriac.adapters.celery_app import QUEUES
    from celeriac.cli.arguments import check_modules, include_arguments, worker_arguments

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
    from celeriac.cli.checks.preflight import check_servers

    if home is not None:
        os.environ["CELERIAC_HOME"] = str(home.resolve())
    settings = read_settings(home)
    for doubt in check_servers(settings, program=program, broker_needed=broker_needed):
        typer.echo(f"warning: {doubt.subject}: {doubt.message}. {doubt.cure}", err=True)
    return settings


def _become_celery(program: str, arguments: list[str]) -> NoReturn:
    """Replace this process: signals and exit codes are Celery's own from here."""
    from celeriac.cli.arguments import CELERY

    sys.stdout.flush()
    sys.stderr.flush()
    # Celery's banner is for people; who reads the log as JSON lines gets nothing else
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, *CELERY, *quiet, "-A", "celeriac", program, *arguments]
    os.execv(sys.executable, command)
