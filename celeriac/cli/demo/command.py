"""`celeriac demo`: real agent tasks on a real small model, from nothing to results."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Json
from celeriac.cli.core.output import CommandError, ExitCode, Output, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from celeriac.cli.demo.plan import Plan
    from celeriac.cli.demo.work import Ended
    from celeriac.cli.system import System, SystemOptions
    from celeriac.embedded.output import Terminal

_SECONDS = 240.0
_CONCURRENCY = 4
_VARIABLES = {
    # a lost worker is noticed in seconds, for people who watch
    "CELERIAC_WORKER_LEASE_SECONDS": "5",
    "CELERIAC_WORKER_HEARTBEAT_SECONDS": "1",
}
_LAST_LINES = 8
_LONGEST = 200


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
    run, the worker is killed once: all complete all the same, each exactly once.
    Then everything is stopped.

    Exits with 0 where all of it worked, else with 1 and the reason.

    Examples:
      celeriac demo
      celeriac demo --json > results.json
    """
    from celeriac.cli.demo.plan import read_plan
    from celeriac.cli.demo.results import show_results, write_json
    from celeriac.logs import LogOptions, Service, configure
    from celeriac.settings import Settings

    configure(LogOptions(service=Service.CLI, level="ERROR"))
    output = Output(as_json=as_json)
    console = output.err if as_json else output.out
    settings = Settings.load()
    options = _options(home or settings.home / "demo", settings.models)
    ended, took = _perform(read_plan(), options, console, time.monotonic() + seconds)
    if as_json:
        write_json(output, ended, took)
    else:
        show_results(console, ended, took)


def _options(home: Path, models: Path) -> "SystemOptions":
    """Return how the demo runs the system: in its own home, with the user's weights."""
    from celeriac.cli.system import SystemOptions

    return SystemOptions(
        home=home,
        host="127.0.0.1",
        port=0,
        local_model=True,
        models=models,
        worker_options=(f"--concurrency={_CONCURRENCY}",),
        variables=_VARIABLES,
    )


def _perform(
    plan: "Plan", options: "SystemOptions", console: "Console", deadline: float
) -> "tuple[Sequence[Ended], float]":
    """Start the system, run the story on it, and stop it; return results and seconds."""
    from celeriac.cli.demo.quiet import QuietTerminal
    from celeriac.cli.system import running_system

    terminal: Terminal = QuietTerminal(console)
    console.print(
        f"• Starting servers, model, worker, keeper and API in {options.home}.", highlight=False
    )
    with running_system(options, terminal) as system:
        return _tell_story(system, plan, console, deadline)


def _tell_story(
    system: "System", plan: "Plan", console: "Console", deadline: float
) -> "tuple[Sequence[Ended], float]":
    from celeriac.cli.demo.story import Story

    begun = time.monotonic()
    story = Story(system, plan, console, deadline)
    story.start()
    system.supervisor.run(until=lambda: not story.is_alive() or time.monotonic() > deadline)
    if system.supervisor.stop_requested:
        raise CommandError("Stopped before it was done.", exit_code=ExitCode.INTERRUPTED)
    story.join(1.0)
    if story.is_alive():
        raise _failed(system, CommandError("The time is up and the demo is not done."))
    if story.failure is not None:
        raise _failed(system, story.failure) from story.failure
    return story.ended, time.monotonic() - begun


def _failed(system: "System", cause: Exception) -> CommandError:
    """Return an error that names what failed, with the last words of the logs."""
    from celeriac.cli.demo.story import DemoFailedError
    from celeriac.embedded.output import read_last_lines

    lines = [str(cause)]
    for process in system.supervisor.processes:
        last = read_last_lines(process.log, _LAST_LINES)
        lines += [
            f"--- {process.spec.name}: {process.log}",
            *(short(each, _LONGEST) for each in last),
        ]
    return DemoFailedError("\n".join(lines), cure=f"All logs are in {system.home.logs}.")
