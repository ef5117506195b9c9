"""`celeriac api`, `worker`, `beat` and `mcp`: one program in the foreground each."""

import os
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from celeriac.cli.core.arguments import (
    ApiHost,
    ApiKey,
    ApiPort,
    ApiUrl,
    Home,
    Include,
    ServerHome,
    WorkspaceOption,
)
from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.core.server import choose_port, find_address, find_server, read_settings

if TYPE_CHECKING:
    from celeriac.settings import Settings

_MCP_PORT = 8322
API_FACTORY = "celeriac.api.app:from_environment"
API_PROTOCOL = "celeriac.api.core.protocol:LimitedProtocol"


def api(
    host: ApiHost = None,
    port: ApiPort = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    home: Home = None,
) -> None:
    """Serve the HTTP API in the foreground.

    Checks the database first. If neither DATABASE_URL nor REDIS_URL is set,
    the servers of the stack that runs in the home are used.

    Examples:
      celeriac api
      celeriac api --host 0.0.0.0 --port 80 --workers 4
    """
    import uvicorn

    from celeriac.kit.collector import paused
    from celeriac.wiring.core import secret_key

    settings = _prepare(home, "The API", broker_needed=False)
    secret_key(settings)
    address = host or settings.api.host
    os.environ["CELERIAC_API_HOST"] = address  # the application accepts it as a host name
    if workers == 1:
        with paused():
            import_module(API_FACTORY.partition(":")[0])
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


def worker(context: typer.Context, include: Include = None, home: Home = None) -> None:
    """Run a worker in the foreground: it takes executions from the queues.

    Checks the database and the broker first, then becomes
    `celery -A celeriac worker`. All options of Celery's worker are accepted.
    The defaults are 100 threads, all queues of Celeriac, no gossip and no
    mingle.

    --include, or CELERIAC_CELERY_INCLUDE, loads Celery tasks of your own.
    Messages of unknown tasks are left to workers that know them.

    After SIGTERM, executions may finish within 30 s
    (CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT); then other workers take them.

    Examples:
      celeriac worker
      celeriac worker --concurrency 300
      celeriac worker --pool prefork --autoscale 8,2
      celeriac worker -Q task_execution,reports -n reports@%h
      celeriac worker --include warehouse
      celery -A celeriac worker --help       # the options of Celery
    """
    from celeriac.adapters.celery_queue import QUEUES

    _help_if_asked(context)
    arguments = worker_arguments([*include_arguments(include or ()), *context.args], QUEUES)
    settings = _prepare(home, "The worker", broker_needed=True)
    check_modules(settings.celery.include, "CELERIAC_CELERY_INCLUDE")
    _become_celery("worker", arguments)


def beat(context: typer.Context, home: Home = None) -> None:
    """Run the keeper in the foreground: it sends due executions and rescues lost ones.

    At least one must run; more are possible. Checks the database and the
    broker first, then becomes `celery -A celeriac beat` with its options.

    Examples:
      celeriac beat
      celeriac beat --loglevel debug
    """
    _help_if_asked(context)
    _prepare(home, "Beat", broker_needed=True)
    _become_celery("beat", context.args or ["--loglevel=INFO"])


def mcp(
    *,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP instead of stdin and stdout.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Port to listen on, 0 for any; default {_MCP_PORT}."),
    ] = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    workspace: WorkspaceOption = None,
    home: ServerHome = None,
) -> None:
    """Serve the tools of Celeriac to agents, over the Model Context Protocol.

    Agents list and start tasks, and wait for, read and cancel executions, with
    the rights of an API key. Over stdin and stdout this is the key of the
    command. Over HTTP every request needs a key of its own
    (Authorization: Bearer), and may name a workspace (Celeriac-Workspace); the
    command's key and workspace are never used.

    Examples:
      celeriac mcp
      celeriac mcp --http --port 8322
      claude mcp add celeriac -- celeriac mcp
    """
    from celeriac.client import Client
    from celeriac.mcp_server.server import PATH, serve_http, serve_stdio

    if not http:
        if host is not None or port is not None:
            raise UsageProblemError("--host and --port go with --http.")
        server = find_server(home, api_url, api_key)
        with Client(server.url, api_key=server.api_key, workspace=workspace) as client:
            serve_stdio(client)
        return

    url = find_address(home, api_url)
    address = host or "127.0.0.1"
    chosen = choose_port(address, _MCP_PORT if port is None else port)
    typer.echo(f"MCP at http://{address}:{chosen}{PATH}, for the API at {url}", err=True)
    serve_http(url, host=address, port=chosen)


_GRACE_SECONDS = 10


def _help_if_asked(context: typer.Context) -> None:
    """Show the help if `-h` is one of the arguments for Celery."""
    if "-h" in context.args:
        typer.echo(context.get_help())
        raise typer.Exit


def _prepare(home: Path | None, program: str, *, broker_needed: bool) -> "Settings":
    """Check the servers that the program needs, and pass the home on to it."""
    from celeriac.cli.doctor.checks import check_servers

    if home is not None:
        os.environ["CELERIAC_HOME"] = str(home.resolve())
    settings = read_settings(home)
    for doubt in check_servers(settings, program=program, broker_needed=broker_needed):
        typer.echo(f"warning: {doubt.subject}: {doubt.message}. {doubt.cure}", err=True)
    return settings


def _become_celery(program: str, arguments: list[str]) -> NoReturn:
    """Replace this process with Celery's."""
    sys.stdout.flush()
    sys.stderr.flush()
    # without a terminal the output is JSON lines only: no banner
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, *CELERY, *quiet, "-A", "celeriac", program, *arguments]
    os.execv(sys.executable, command)


DEFAULT_CONCURRENCY = 100
"""Executions wait for models and the network far more than they compute."""

CELERY = ("-P", "-m", "celeriac.worker")
"""Python's arguments for Celery's program, with the current directory last on the path."""

_QUIET = ("--without-gossip", "--without-mingle")
"""Workers don't need to know of each other: the database has their state."""


def worker_arguments(given: Sequence[str], queues: Sequence[str]) -> list[str]:
    """Return `given`, Celery's own worker options, with our defaults before them.

    The pool is `threads`; with `--autoscale`, which threads can't do, `prefork`. Concurrency is
    100 for threads and Celery's default for other pools. The queues are `queues` unless `given`
    names some. The node's name contains the id of this process, so that it is unique on its host.
    Raises UsageProblemError for a pool that a worker can't use.
    """
    from celeriac.adapters.celery_queue import pool_refusal

    named = _named_options(given)
    autoscale = "autoscale" in named
    pool = named.get("pool") or ("prefork" if autoscale else "threads")
    refusal = pool_refusal(pool)
    if refusal is not None:
        raise UsageProblemError(refusal)
    defaults: dict[str, object] = {"pool": pool}
    if pool == "threads" and not autoscale:
        defaults["concurrency"] = DEFAULT_CONCURRENCY
    defaults |= {"queues": ",".join(queues), "hostname": f"{node_name()}@%h", "loglevel": "INFO"}
    options = [f"--{name}={value}" for name, value in defaults.items() if name not in named]
    return [*options, *(flag for flag in _QUIET if flag not in given), *given]


def _named_options(arguments: Sequence[str]) -> Mapping[str, str | None]:
    """Return the last values, as in Celery, of those options that have a default here."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    parser.add_argument("--autoscale", nargs="?")
    for short, long in (("P", "pool"), ("c", "concurrency"), ("Q", "queues"), ("n", "hostname"),
                        ("l", "loglevel")):  # fmt: skip
        parser.add_argument(f"-{short}", f"--{long}", nargs="?")
    return vars(parser.parse_known_args(arguments)[0])


def node_name() -> str:
    """Return the name, on its host, of the worker that this process starts or becomes."""
    return f"celeriac-{os.getpid()}"


def include_arguments(modules: Sequence[str]) -> list[str]:
    """Return Celery's option to load `modules`, each one name or several with commas.

    Raises UsageProblemError for a module that is not found.
    """
    names = [name.strip() for each in modules for name in each.split(",") if name.strip()]
    check_modules(names, "--include")
    return [f"--include={','.join(names)}"] if names else []


def check_modules(names: Sequence[str], source: str) -> None:
    """Raise UsageProblemError for a module that is not found; `source` is the option's name."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        if not _exists(name):
            raise UsageProblemError(
                f"{source} {name}: there is no module of that name in this directory or among "
                "the installed packages."
            )


def _exists(module: str) -> bool:
    """Return whether a module exists; this imports its parents."""
    try:
        return find_spec(module) is not None
    except ImportError:  # of a parent
        return False
