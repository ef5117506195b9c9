"""`celeriac executions`: lists, details, timeline, files."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.bulk import cancel, retry
from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import (
    CommandError,
    Output,
    clock,
    duration,
    moment,
    money,
    plain,
    printable,
    short,
    size,
    tokens,
)
from celeriac.cli.failures import own_frames
from celeriac.cli.follow.following import event_line, overshoot
from celeriac.cli.follow.listing import follow_list
from celeriac.cli.follow.view import describe
from celeriac.cli.ids import ExecutionId, short_id
from celeriac.cli.notes import error_text, note, waits_for
from celeriac.cli.selection import (
    Agent,
    Batch,
    ErrorOption,
    Since,
    Statuses,
    Task,
    Until,
    Waiting,
    selection,
)
from celeriac.domain.executions.states import Status
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client.sessions import Files
    from celeriac.logs import LogLine
    from celeriac.wire import Event, Execution


_EVENTS = "events"
_STYLES = {_EVENTS: "bold cyan", "api": "green", "worker": "magenta", "agent": "yellow"}
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}
_LONGEST = 300
_TRACES = ("exception", "traceback")
"""Fields of log lines that are shown whole, below their line."""
_IDS = frozenset(
    {"request_id", "user_id", "task_id", "execution_id", "session_id", "celery_task_id", "logger"}
)


@open_client
def timeline(
    session: CommandContext,
    execution: ExecutionId,
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Where the log files are; CELERIAC_LOG_DIR, or `logs` in the home."),
    ] = None,
) -> None:
    """Show what API, worker and agent logged for an execution, and its events, by time.

    Log lines are read from the files on this machine; events come from the
    server.

    Examples:
      celeriac timeline last
      celeriac timeline 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11 --json
    """
    from celeriac.logs import read_execution_lines

    found = session.client.executions.get(execution)
    directory = log_dir or session.logs
    entries = [_of_event(event) for event in session.client.executions.events(found.id)]
    entries += [_of_line(line) for line in read_execution_lines(directory, str(found.id))]
    entries.sort(key=lambda entry: entry["at"])
    if session.output.as_json:
        session.output.json(entries)
        return
    for entry in entries:
        _show(session.output, entry)
    if all(entry["source"] == _EVENTS for entry in entries):
        session.output.say(f"No log lines of it are in {directory}; these are its events.")


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
    line.append(printable(short(entry["text"], _LONGEST)))
    output.out.print(line, soft_wrap=True)
    for name in _TRACES:
        if trace := entry["data"].get(name):
            shown = own_frames(str(trace)).rstrip()
            output.out.print(Text(printable(shown), style="red"), soft_wrap=True)


Paths = Annotated[
    list[str], typer.Argument(metavar="[PATH]...", help="Files, as listed; all if none is named.")
]
Into = Annotated[
    Path,
    typer.Option("--to", metavar="DIRECTORY", help="Where they go; it is made.", file_okay=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


def show_files(session: CommandContext, files: "Files") -> None:
    """List files with their sizes."""
    found = list(files.list())
    if session.output.as_json:
        session.output.json(found)
        return
    rows = ((each.path, size(each.size), moment(each.modified_at)) for each in found)
    session.output.table(("PATH", "SIZE", "CHANGED"), rows)


def fetch_files(
    session: CommandContext,
    files: "Files",
    paths: Sequence[str],
    directory: Path,
    *,
    overwrite: bool,
) -> None:
    """Download files, keeping their directories; nothing is written over unless asked for."""
    from celeriac.client.sessions import local_path

    wanted = list(paths) or [each.path for each in files.list()]
    targets = {path: local_path(directory, path) for path in wanted}
    there = [str(target) for target in targets.values() if target.exists()]
    if there and not overwrite:
        raise CommandError(
            f"{there[0]} is there already; nothing was downloaded.",
            cure="--overwrite replaces it, --to names another directory.",
            problem="file_exists",
        )
    sizes = {path: files.download(path, target) for path, target in targets.items()}
    if session.output.as_json:
        session.output.json(
            [
                {"path": path, "file": str(targets[path]), "size": count}
                for path, count in sizes.items()
            ]
        )
        return
    for path, count in sizes.items():
        session.output.raw(f"{targets[path]} · {size(count)}")


_SHORT = 60


class Bulky(StrEnum):
    """What may be large of an execution."""

    VARIABLES = "variables"
    RESULT = "result"
    ERROR_DETAILS = "error_details"


def build_app() -> typer.Typer:
    """Return the group `executions`."""
    app = typer.Typer(name="executions", help="Runs of tasks: look at them, end them, repeat them.")
    app.command("list")(list_executions)
    for command in (show, result, events, report, files, download, cancel, retry):
        app.command()(command)
    return app


@open_client
def list_executions(
    session: CommandContext,
    *,
    limit: Limit = 20,
    status: Statuses = [],  # noqa: B006 - Typer copies it
    waiting_for: Waiting = None,
    task: Task = None,
    agent: Agent = None,
    batch: Batch = None,
    error: ErrorOption = None,
    since: Since = None,
    until: Until = None,
    following: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show new executions and changes until Ctrl-C."),
    ] = False,
    include: Annotated[
        list[Bulky],
        typer.Option(help="With --json: what else to write; may be repeated."),
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """List executions, the newest first.

    Variables, results and error details may be large: they are left out but for
    what --include names. `celeriac executions show` has all of one execution.

    With --follow, shows the newest executions one line each, oldest first, then
    a line for each new execution and for each change of status, attempt or what
    an execution waits for. With --json each line is a JSON object. Lines are
    shown for matches only. Follows the newest 500 that have not ended.

    Examples:
      celeriac executions list
      celeriac executions list --status failed --status cancelled --task summarise
      celeriac executions list --since 2026-11-22 --json
      celeriac executions list --follow --status failed --since 2h
      celeriac executions list --waiting-for approval
      celeriac executions list --batch ID --json --include result
    """
    wanted = selection(
        status=status,
        waiting_for=waiting_for,
        task=task,
        agent=agent,
        batch_id=batch,
        error_code=error,
        created_after=since,
        created_before=until,
    )
    if following:
        follow_list(session, wanted, limit=limit, include=[each.value for each in include])
    pages = session.client.executions.list(
        include=[each.value for each in include] or None, **wanted
    )
    found = list(islice(pages, limit))
    if session.output.as_json:
        left_out = {each.value for each in Bulky if each not in include}
        session.output.json([each.model_dump(by_alias=True, exclude=left_out) for each in found])
        return
    session.output.table(
        ("ID", "TASK", "STATUS", "ATTEMPT", "CREATED", "RAN", "TOKENS", "NOTE"),
        (
            (
                str(each.id),
                each.task_name,
                each.status.value,
                str(each.attempt),
                moment(each.created_at),
                duration(each.duration_seconds),
                tokens(each.input_tokens, each.output_tokens),
                short(note(each), _SHORT),
            )
            for each in found
        ),
        cut=("TASK", "NOTE"),
        drop=("TOKENS", "ATTEMPT", "RAN", "CREATED"),
    )


@open_client
def show(session: CommandContext, execution: ExecutionId) -> None:
    """Show everything about an execution."""
    found = session.client.executions.get(execution)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.fields(_facts(found, overshoot(session, found)))


@open_client
def result(session: CommandContext, execution: ExecutionId) -> None:
    """Print the result of a completed execution, and nothing else.

    Exits with 1 where it hasn't completed.
    """
    found = session.client.executions.get(execution)
    if found.status is not Status.COMPLETED:
        following = f"`celeriac monitor {short_id(execution)}` waits for it."
        raise CommandError(
            f"The execution is {found.status.value}; it has no result.",
            cure=None if found.status.terminal else following,
            problem=found.error_code or found.status.value,
        )
    if session.output.as_json:
        session.output.json(found.result)
    else:
        session.output.raw(plain(found.result))


@open_client
def events(
    session: CommandContext,
    execution: ExecutionId,
    after: Annotated[int, typer.Option(min=0, help="Only those numbered above it.")] = 0,
) -> None:
    """List the events of an execution, in order."""
    found = session.client.executions.events(execution, after=after)
    if session.output.as_json:
        session.output.json(list(found))
        return
    for event in found:
        session.output.raw(event_line(event))


@open_client
def report(
    session: CommandContext,
    execution: ExecutionId,
    html: Annotated[bool, typer.Option("--html", help="As a page, not as Markdown.")] = False,
) -> None:
    """Print the report of an execution that has ended.

    Examples:
      celeriac executions report 0199f3a2-… --html > report.html
    """
    text = session.client.executions.report(execution, format="html" if html else "markdown")
    if session.output.as_json:
        session.output.json({"format": "html" if html else "markdown", "report": text})
    else:
        session.output.raw(text)


@open_client
def files(session: CommandContext, execution: ExecutionId) -> None:
    """List the files that its agent left in the execution's own directory."""
    show_files(session, session.client.executions.files(execution))


@open_client
def download(
    session: CommandContext,
    execution: ExecutionId,
    paths: Paths = [],  # noqa: B006 - Typer copies it
    to: Into = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Download files that its agent left, all or those that are named."""
    fetch_files(session, session.client.executions.files(execution), paths, to, overwrite=overwrite)


def _facts(execution: "Execution", beyond: str) -> dict[str, str]:
    error = execution.error_details or {}
    facts = {
        "id": str(execution.id),
        "task": execution.task_name,
        "status": execution.status.value,
        "waits for": waits_for(execution),
        "trigger": execution.trigger_type.value,
        "priority": execution.priority,
        "queue": execution.queue,
        "attempt": f"{execution.attempt} ({counted(execution.retry_count, 'retry', 'retries')}, "
        f"{counted(execution.crash_count, 'lost worker')})",
        "worker": execution.worker_hostname or "",
        "created": moment(execution.created_at),
        "started": moment(execution.started_at),
        "completed": moment(execution.completed_at),
        "ran": duration(execution.duration_seconds),
        "tokens": tokens(execution.input_tokens, execution.output_tokens),
        "cost": money(execution.cost) if execution.cost else "",
        "overshoot": beyond,
        "cancelled by": execution.cancel_requested_by or "",
        "repeats": str(execution.origin_id or ""),
        "batch": str(execution.batch_id or ""),
        "session": str(execution.session_id or ""),
        "Celery task": execution.celery_task_id or "",
        "request": execution.request_id or "",
        "error": error_text(execution),
        "traceback": own_frames(str(error.get("traceback") or "")).rstrip(),
        "variables": plain(execution.variables),
        "cut off": "yes, by the model's token limit" if execution.truncated else "",
        "result": "" if execution.result is None else plain(execution.result),
    }
    return {name: value for name, value in facts.items() if value}
