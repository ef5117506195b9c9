"""`celeriac logs`: the log files of API, worker and keeper as one stream."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, Home, WorkspaceOption
from celeriac.cli.core.context import CommandContext, open_client, server_errors
from celeriac.cli.core.ids import ExecutionId, short_id
from celeriac.cli.core.output import (
    CommandError,
    ExitCode,
    Output,
    UsageProblemError,
    clock,
    plain,
)
from celeriac.cli.core.server import load_own_settings
from celeriac.kit.json_types import dumps
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.logs.reading import LogLine

    Wanted = Callable[[LogLine], bool]

_POLL_SECONDS = 0.2
_TAIL_BYTES = 4 * 1024 * 1024
_LEVELS = ("debug", "info", "warning", "error", "critical")
_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
_HIDDEN = frozenset(
    {
        "request_id",
        "user_id",
        "task_id",
        "session_id",
        "celery_task_id",
        "trace_id",
        "logger",
        "exception",
    }
)
"""Fields that a line for people is shown without."""


@open_client
def _of_execution(
    context: CommandContext,
    execution: ExecutionId,
    *,
    follow: bool,
    lines: int,
    level: str,
) -> None:
    executions, output = context.client.executions, context.output
    from celeriac.client import ClientError

    try:
        page = executions.logs(execution, tail=lines, level=level)
    except ClientError as error:
        if error.code != "logs_not_here":
            raise
        raise server_errors(
            error, cure=f"`celeriac executions events {short_id(execution)}` shows them."
        ) from error
    for each in page.items:
        _show(output, *_as_stored(each))
    if page.elsewhere:
        output.say(
            f"The lines of its worker are on the host {page.elsewhere}: use `celeriac timeline "
            f"{short_id(execution)}` there, or let API and workers share one CELERIAC_LOG_DIR."
        )
    if follow:
        found = executions.follow_logs(
            execution, after=page.next_after, level=level, on_away=context.say_away
        )
        for each in found:
            _show(output, *_as_stored(each))


def _as_stored(line: "wire.LogLine") -> tuple[bytes, "LogLine"]:
    """Return a line of the API as it is in the file, and parsed."""
    from celeriac.logs.reading import LogLine

    parsed = LogLine(line.at, line.level, line.service, line.event, line.fields)
    core = {"timestamp": line.at, "level": line.level, "service": line.service, "event": line.event}
    return dumps(core | line.fields).encode(), parsed


def logs(
    execution_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXECUTION]",
            help="Read the log of this execution from the API: its id, its beginning or end, or "
            "`last`. Without it, the files of this machine are read.",
        ),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many earlier lines to show.")
    ] = 50,
    execution: Annotated[
        str | None,
        typer.Option(
            "--execution",
            metavar="ID",
            help="Only lines of this execution; its id, or the beginning or end of it.",
        ),
    ] = None,
    level: Annotated[
        str, typer.Option("--level", help="The lowest level: debug, info, warning, error.")
    ] = "debug",
    as_json: Annotated[bool, typer.Option("--json", help="Lines as in the files: JSON.")] = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    in_workspace: WorkspaceOption = None,
    home: Home = None,
) -> None:
    """Show the logs of API, worker and keeper, merged by time, or of one execution.

    With --follow the log of an execution ends when it has ended.

    Examples:
      celeriac logs last -f
      celeriac logs -f
      celeriac logs --level warning -n 200
      celeriac logs -f --execution 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11
      celeriac logs --json -f | grep execution.failed
    """
    from celeriac.embedded.output import LogFollower
    from celeriac.logs.reading import SERVICE_FILES

    if level not in _LEVELS:
        raise UsageProblemError(
            f"--level {level!r} is unknown.", cure=f"Use one of {', '.join(_LEVELS)}."
        )
    if execution_id is not None:
        if execution is not None:
            raise UsageProblemError("Name the execution once: as EXECUTION, or with --execution.")
        _of_execution(
            execution=execution_id, follow=follow, lines=lines, level=level, as_json=as_json,
            api_url=api_url, api_key=api_key, in_workspace=in_workspace, home=home,
        )  # fmt: skip
        return
    directory = load_own_settings(home).logs
    if not directory.is_dir():
        raise CommandError(
            f"There are no logs in {directory}.",
            cure="Start Celeriac with `celeriac up`, or name its home with --home.",
            exit_code=ExitCode.NOT_FOUND,
            problem="no_logs",
        )
    wanted = _filter(execution, level)
    output = Output(as_json=as_json)
    # the followers begin at the current ends of the files, so that no line is lost; lines that are
    # written meanwhile are read twice
    # a reader rotates no file, however large it is
    followers = [LogFollower(directory / name, most_bytes=sys.maxsize) for name in SERVICE_FILES]
    last = chain.from_iterable(_tail(directory / name) for name in SERVICE_FILES)
    earlier = _selected(last, wanted)[-lines:] if lines else []
    for raw, line in earlier:
        _show(output, raw, line)
    shown = {raw for raw, _ in earlier}
    while follow:
        rows = (text.encode() for each in followers for text in each.read_lines())
        for raw, line in _selected(rows, wanted):
            if raw not in shown:
                _show(output, raw, line)
        time.sleep(_POLL_SECONDS)


def _filter(execution: str | None, level: str) -> "Wanted":
    """Return a function that says whether to show a line."""

    def wanted(line: "LogLine") -> bool:
        found = str(line.fields.get("execution_id", ""))
        if execution and not (found.startswith(execution) or found.endswith(execution)):
            return False
        return line.level not in _LEVELS or _LEVELS.index(line.level) >= _LEVELS.index(level)

    return wanted


def _selected(rows: Iterable[bytes], wanted: "Wanted") -> list[tuple[bytes, "LogLine"]]:
    """Return the wanted rows with their parsed lines, by time."""
    from celeriac.logs.reading import parse_line

    parsed = ((raw, parse_line(raw)) for raw in rows)
    found = [(raw, line) for raw, line in parsed if line is not None and wanted(line)]
    return sorted(found, key=lambda pair: pair[1].at)


def _tail(path: Path) -> Sequence[bytes]:
    """Return the lines in the last megabytes of a file; none if it doesn't exist."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - _TAIL_BYTES))
            rows = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return rows[1:] if end > _TAIL_BYTES else rows


def _show(output: Output, raw: bytes, line: "LogLine") -> None:
    from rich.text import Text

    if output.as_json:
        output.raw(raw.decode(errors="replace"))
        return
    when = clock(line.at)
    values = {key: value for key, value in line.fields.items() if key not in _HIDDEN}
    said = " ".join(f"{key}={plain(value)}" for key, value in values.items())
    text = Text(f"{when} {line.service:<7}", style="dim")
    text.append(f"{line.level:<8} ", style=_STYLES.get(line.level, ""))
    text.append(printable(line.event), style="bold")
    text.append(f" {printable(said)}" if said else "")
    output.out.print(text, soft_wrap=True)
    if trace := line.fields.get("exception"):
        output.out.print(Text(printable(str(trace)), style="red"), soft_wrap=True)
