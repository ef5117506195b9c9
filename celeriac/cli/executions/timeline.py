"""`celeriac timeline`: log lines and events of an execution, by time."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import ExecutionId
from celeriac.cli.core.output import Output, clock, plain, short
from celeriac.cli.executions.notes import own_frames
from celeriac.cli.executions.view import describe
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.logs.reading import LogLine
    from celeriac.wire import Event

_EVENTS = "events"
_STYLES = {_EVENTS: "bold cyan", "api": "green", "worker": "magenta", "agent": "yellow"}
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}
_MAX_LENGTH = 300
_TRACES = ("exception", "traceback")
"""Fields of log lines that are shown below the line, at full length."""
_IDS = frozenset(
    {"request_id", "user_id", "task_id", "execution_id", "session_id", "celery_task_id", "logger"}
)


@open_client
def timeline(
    context: CommandContext,
    execution: ExecutionId,
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of the log files; CELERIAC_LOG_DIR, or `logs` in the home."),
    ] = None,
) -> None:
    """Show the log lines of API, worker and agent for an execution, and its events, by time.

    Log lines are read from files on this machine, events from the server.

    Examples:
      celeriac timeline last
      celeriac timeline 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11 --json
    """
    from celeriac.logs.reading import read_execution_lines

    found = context.client.executions.get(execution)
    directory = log_dir or context.logs
    entries = [_of_event(event) for event in context.client.executions.events(found.id)]
    entries += [_of_line(line) for line in read_execution_lines(directory, str(found.id))]
    entries.sort(key=lambda entry: entry["at"])
    if context.output.as_json:
        context.output.json(entries)
        return
    for entry in entries:
        _show(context.output, entry)
    if all(entry["source"] == _EVENTS for entry in entries):
        context.output.say(f"There are no log lines of it in {directory}; these are its events.")


def _of_event(event: "Event") -> dict[str, Any]:
    return {
        "at": event.at,
        "source": _EVENTS,
        "level": "info",
        "event": event.type.value,
        "text": describe(event),
        "data": event.data,
    }


def _of_line(line: "LogLine") -> dict[str, Any]:
    values = {name: value for name, value in line.fields.items() if name not in _IDS}
    text = " ".join(
        f"{name}={plain(value)}" for name, value in values.items() if name not in _TRACES
    )
    return {
        "at": line.at,
        "source": line.service,
        "level": line.level,
        "event": line.event,
        "text": text,
        "data": values,
    }


def _show(output: Output, entry: dict[str, Any]) -> None:
    from rich.text import Text

    at: datetime = entry["at"]
    line = Text(f"{clock(at)} ", style="dim")
    line.append(f"{entry['source']:<7}", style=_STYLES.get(entry["source"], ""))
    line.append(f"{printable(entry['event'])} ", style=_LEVELS.get(entry["level"], "bold"))
    line.append(printable(short(entry["text"], _MAX_LENGTH)))
    output.out.print(line, soft_wrap=True)
    for name in _TRACES:
        if trace := entry["data"].get(name):
            shown = own_frames(str(trace)).rstrip()
            output.out.print(Text(printable(shown), style="red"), soft_wrap=True)
