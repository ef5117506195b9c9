"""`celeriac up`: the whole system on this machine, in the foreground."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import ApiHost, ApiPort, Home, Include, Json
from celeriac.cli.core.output import Output
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.cli.system import System


def up(
    *,
    host: ApiHost = None,
    port: ApiPort = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Executions that run at once; 100 with threads.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Celery's pool: threads, prefork or solo; threads.")
    ] = None,
    include: Include = None,
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Don't restart the worker when code changes.")
    ] = False,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Don't start the small language model.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Run the whole system on this machine, until Ctrl-C.

    Starts PostgreSQL, Valkey and a small language model from Python packages,
    then the worker, the keeper and the API, and restarts each of them when it
    ends. All state is in the home. DATABASE_URL, REDIS_URL, CELERY_BROKER_URL
    and CELERIAC_LOCAL_MODEL_URL name other servers, which are used instead.

    When a module changes that the worker has imported, the worker is restarted;
    running executions may finish first. CELERIAC_WORKER_RELOAD or --no-reload
    switches this off.

    Ctrl-C or SIGTERM stops everything in order; running executions may finish.
    A second one stops at once. Both exit with 0. With --json, one line of JSON
    on stdout has all addresses, as soon as everything is ready.

    Examples:
      celeriac up
      celeriac up --port 0 --no-model
      celeriac up --include warehouse
      DATABASE_URL=postgresql://me@db/celeriac celeriac up
    """
    from celeriac.cli.programs import include_arguments, worker_arguments
    from celeriac.cli.system import SystemOptions, running_system
    from celeriac.embedded.output import Terminal
    from celeriac.kit.child_bootstrap import hide_memory
    from celeriac.logs import LogOptions, Service, configure

    hide_memory()
    configure(LogOptions(service=Service.CLI, level="WARNING"))
    output = Output(as_json=as_json)
    worker_options = [
        *([f"--concurrency={concurrency}"] if concurrency else []),
        *([f"--pool={pool}"] if pool else []),
        *include_arguments(include or ()),
    ]
    worker_arguments(worker_options, ())  # raises for wrong options, before anything starts
    options = SystemOptions(
        home=home,
        host=host,
        port=port,
        local_model=False if no_model else None,
        worker_options=tuple(worker_options),
        reload=False if no_reload else None,
    )
    terminal = Terminal(output.err if as_json else output.out)
    with running_system(options, terminal) as system:
        if as_json:
            output.json(_facts(system), indent=None)
        else:
            _show_banner(output, system)
        sys.stdout.flush()
        system.supervisor.run()
        if said := stopping(system):
            terminal.say(said)


def stopping(system: "System") -> str | None:
    """Return how long stopping may take, if executions are running."""
    from celeriac.domain.errors import DatabaseUnavailableError

    try:
        count = system.count_running()
    except DatabaseUnavailableError:
        return None  # unknown; stopping continues
    if not count:
        return None
    what = counted(count, "execution")
    return f"Waiting up to {system.stop_seconds:g} s for {what}; Ctrl-C again stops at once."


def _facts(system: "System") -> dict[str, object]:
    return {
        "api_url": system.api_url,
        "docs_url": f"{system.api_url}/docs",
        "home": str(system.home.root),
        "key_file": str(system.key_file),
        "logs": str(system.home.logs),
        "model_url": system.endpoints.model_base_url,
        "pids": {each.spec.name: each.pid for each in system.supervisor.processes},
    }


def _show_banner(output: Output, system: "System") -> None:
    from rich.panel import Panel
    from rich.text import Text

    model = system.endpoints.model_base_url
    facts = {
        "API": f"{system.api_url}   documentation: {system.api_url}/docs",
        "API key": f"{system.key_file}   (commands in this home find it)",
        "Model": f"local/smollm2 at {model}" if model else "no local one",
        "Logs": f"{system.home.logs}",
    }
    lines = [f"{name:<9}{value}" for name, value in facts.items()]
    output.out.print(
        Panel(
            Text("\n".join([*lines, "", *next_steps(system)])),
            title="Celeriac is up",
            subtitle="Ctrl-C stops everything in order",
            expand=False,
        )
    )


def next_steps(system: "System") -> list[str]:
    """Return the commands to try first, with the available model or without one."""
    from celeriac.embedded.home import Home as HomeDirectory

    steps = ["Try in another terminal:"]
    if system.home != HomeDirectory.at(None):
        steps.append(f"  export CELERIAC_HOME={system.home.root}")
    steps.append("  celeriac doctor")
    if not (system.endpoints.model_base_url or system.has_openai):
        return [*steps, *FUNCTION_STEPS]
    model = "local/smollm2" if system.endpoints.model_base_url else "openai/gpt-5-mini"
    return [
        *steps,
        f"  celeriac agents create writer --model {model}",
        '  celeriac tasks create summarise --agent writer --prompt "Summarise: {{ text }}"',
        '  celeriac run summarise --var text="Celeriac is the root of a kind of celery."',
    ]


FUNCTION_STEPS = (
    "No language model: set OPENAI_API_KEY and start again, or run a function. Save in hello.py",
    "  async def double(n: int) -> int:",
    "      return 2 * n",
    "stop this, start it with CELERIAC_AGENT_MODULES=hello celeriac up --no-model, then",
    "  celeriac agents create double --function hello:double",
    "  celeriac tasks create double --agent double",
    "  celeriac run double --var n:=21",
)
"""Commands that need no language model."""
