"""`celeriac demo`: agent tasks on a small model, from nothing to results, on this machine."""

import threading
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import celeriac
from celeriac.cli.core.arguments import Json
from celeriac.cli.core.output import (
    CommandError,
    ExitCode,
    Output,
    duration,
    plain,
    printable,
    short,
)
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from celeriac.cli.demo.scenario import Result, Scenario

_SECONDS = 240.0
_VARIABLES = {
    # a lost worker is noticed in seconds, for people who watch
    "CELERIAC_WORKER_LEASE_SECONDS": "5",
    "CELERIAC_WORKER_HEARTBEAT_SECONDS": "1",
}
_LAST_LINES = 8
_LOG_CHARACTERS = 200
_RESULT_CHARACTERS = 400


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
    from celeriac.cli.demo.scenario import Scenario
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
        results = _run(Scenario(system, document, texts, console, deadline))
        took = time.monotonic() - begun
    if as_json:
        output.json({"seconds": round(took, 3), "executions": results})
    else:
        _show(console, results, took)


def read_files(directory: Path | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the document that `Client.apply` takes, and the texts by name.

    They are read from `directory`, or come with Celeriac: a wheel has them in `demo_files`, a
    checkout in `examples/demo`. Raises CommandError where a file is missing or malformed.
    """
    package = Path(celeriac.__file__).parent
    packaged, checkout = package / "demo_files", package.parent / "examples" / "demo"
    directory = directory or (packaged if packaged.is_dir() else checkout)
    try:
        document = tomllib.loads((directory / "demo.toml").read_text(encoding="utf-8"))
        texts = {
            path.stem: path.read_text(encoding="utf-8").strip()
            for path in sorted((directory / "inputs").glob("*.txt"))
        }
    except (OSError, ValueError) as error:
        raise CommandError(f"The demo's files in {directory} can't be read: {error}") from error
    if not (document.get("agents") and document.get("tasks") and texts):
        raise CommandError(f"The demo's files in {directory} name no agent, no task or no text.")
    return document, texts


def _run(scenario: "Scenario") -> "Sequence[Result]":
    """Run the scenario in a thread, while this one supervises the processes.

    Raises CommandError, with the last lines of all logs if the demo failed.
    """
    from celeriac.cli.demo.scenario import DemoFailedError
    from celeriac.embedded.output import read_last_lines

    future: Future[Sequence[Result]] = Future()

    def run() -> None:
        try:
            future.set_result(scenario.run())
        except Exception as error:  # noqa: BLE001 - raised by `future.result`
            future.set_exception(error)

    threading.Thread(target=run, name="demo", daemon=True).start()
    supervisor = scenario.system.supervisor
    supervisor.run(until=lambda: future.done() or time.monotonic() > scenario.deadline)
    if supervisor.stop_requested:
        raise CommandError("Stopped before it was done.", exit_code=ExitCode.INTERRUPTED)
    try:
        return future.result(timeout=1.0)
    except Exception as error:
        # the error of a result that is not there is empty
        lines = [str(error) or "The time is up and the demo is not done."]
        for process in supervisor.processes:
            lines.append(f"--- {process.spec.name}: {process.log}")
            last = read_last_lines(process.log, _LAST_LINES)
            lines += [short(line, _LOG_CHARACTERS) for line in last]
        cure = f"All logs are in {scenario.system.home.logs}."
        raise DemoFailedError("\n".join(lines), cure=cure) from error


def _show(console: "Console", results: "Sequence[Result]", seconds: float) -> None:
    """Print each result by task, and what the events prove."""
    from rich.text import Text

    for task in dict.fromkeys(each["task"] for each in results):
        console.print(Text(f"\n{task}", style="bold underline"))
        for each in [each for each in results if each["task"] == task]:
            result = printable(short(plain(each["result"]), _RESULT_CHARACTERS))
            totals = (
                f"  {duration(each['duration_seconds'])}, "
                f"{counted(each['input_tokens'], 'token')} read, {each['output_tokens']} written, "
                f"{counted(each['attempts'], 'attempt')}"
            )
            parts = ((f"{each['text']}\n", "bold"), f"  {result}\n", (totals, "dim"))
            console.print(Text.assemble(*parts), soft_wrap=True)
    lost = sum(each["workers_lost"] > 0 for each in results)
    read = sum(each["input_tokens"] for each in results)
    written = sum(each["output_tokens"] for each in results)
    for line in (
        "",
        f"• {counted(len(results), 'execution')}, each completed exactly once by its own log.",
        f"• {lost} of them lost their worker on the way and were run again.",
        f"• {counted(read, 'token')} read and {written:,} written by a model on this machine.",
        f"• {duration(seconds)} from the first request to the last result.",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
