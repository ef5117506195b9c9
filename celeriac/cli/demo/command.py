"""`celeriac demo`: agent tasks on a small model, from nothing to results, on this machine."""

import time
from pathlib import Path
from typing import Annotated

import typer

from celeriac.cli.core.arguments import Json
from celeriac.cli.core.output import Output

_SECONDS = 240.0
_VARIABLES = {
    # a lost worker is noticed in seconds, for people who watch
    "CELERIAC_WORKER_LEASE_SECONDS": "5",
    "CELERIAC_WORKER_HEARTBEAT_SECONDS": "1",
}


def demo(
    seconds: Annotated[
        float, typer.Option("--deadline", min=10, help="Give up after so many seconds.")
    ] = _SECONDS,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="The demo's own home; `demo` in CELERIAC_HOME, or .celeriac/demo.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show everything at work on this machine alone, in about a minute.

    Starts PostgreSQL, Valkey, a small language model, worker, keeper and API in
    a home of its own and on free ports, so that nothing else is disturbed. The
    model summarises and sorts a few texts as background executions. While they
    run, the worker is killed: all complete all the same, each exactly once.
    Then a workflow sorts all texts at the same time and writes one note about
    the results. Its worker is killed in the middle too, and the note is written
    once, after all texts are sorted. Then everything is stopped.

    Exits with 0 where all of it worked, else with 1 and the reason.

    Examples:
      celeriac demo
      celeriac demo --json > results.json
    """
    from celeriac.cli.core.output import duration
    from celeriac.cli.demo.scenario import Scenario, read_files, run_supervised
    from celeriac.cli.demo.showing import show_results, show_run
    from celeriac.cli.system import SystemOptions, running_system
    from celeriac.embedded.output import Terminal
    from celeriac.logs import LogOptions, Service, configure
    from celeriac.settings import Settings

    configure(LogOptions(service=Service.CLI, level="ERROR"))
    output = Output(as_json=as_json)
    console = output.err if as_json else output.out
    settings = Settings.load()
    document, texts = read_files()
    deadline = time.monotonic() + seconds
    options = SystemOptions(
        home=home or settings.home / "demo",
        host="127.0.0.1",
        port=0,
        local_model=True,
        models=settings.models,
        worker_options=("--concurrency=4",),
        variables=_VARIABLES,
    )
    console.print(
        f"• Starting servers, model, worker, keeper and API in {options.home}.", highlight=False
    )
    terminal = Terminal(console, own_name="system", quiet=True)
    with running_system(options, terminal) as system:
        begun = time.monotonic()
        outcome = run_supervised(Scenario(system, document, texts, console, deadline))
        took = time.monotonic() - begun
    executions, run, items = outcome.executions, outcome.workflow.run, outcome.workflow.items
    if as_json:
        workflow = {"run": run, "items": items}
        output.json({"seconds": round(took, 3), "executions": executions, "workflow": workflow})
        return
    show_results(console, executions)
    show_run(console, run, items)
    console.print(f"• {duration(took)} from the first request to the last.", highlight=False)
