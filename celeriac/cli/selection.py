"""Options that say which executions are meant: for `executions list`, `cancel` and `retry`."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, cast
from uuid import UUID

import typer

from celeriac.domain.executions.states import Status, WaitingFor

if TYPE_CHECKING:
    from typing import Unpack

    from celeriac.client.executions import ExecutionFilter

_AGO = re.compile(r"(\d{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_moment(text: str) -> datetime:
    """Return the time of `text`: a duration before now (`2h`), a date, or a local time.

    Raises BadParameter.
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            seconds = int(ago[1]) * _SECONDS[ago[2]]
            return datetime.now(UTC) - timedelta(seconds=seconds)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is not a time. Write 90s, 30m, 2h or 7d for that long ago, a date as "
            "2026-11-22, or a local time as 2026-11-22T09:30."
        ) from error


_TIME = "TIME"

Statuses = Annotated[
    list[Status],
    typer.Option("--status", "-s", help="Only with this status; may be repeated."),
]
Waiting = Annotated[
    WaitingFor | None, typer.Option("--waiting-for", help="Only those that wait for this.")
]
Task = Annotated[str | None, typer.Option("--task", help="Only of this task: name or id.")]
Agent = Annotated[
    str | None,
    typer.Option("--agent", help="Only of this agent, any version: name or id."),
]
Batch = Annotated[UUID | None, typer.Option("--batch", help="Only of this batch.")]
ErrorOption = Annotated[
    str | None,
    typer.Option("--error", metavar="CODE", help="Only those whose last error has this code."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=parse_moment,
        metavar=_TIME,
        help="Only those created since then: 30m, 2h or 7d ago, a date, or a local time.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until",
        parser=parse_moment,
        metavar=_TIME,
        help="Only those created before then, in the same forms.",
    ),
]

FILTERS = "filters such as --status, --task or --since"


def selection(**given: "Unpack[ExecutionFilter]") -> "ExecutionFilter":
    """Return the filter of the options that were given; it is empty if there are none."""
    wanted = {name: value for name, value in given.items() if value is not None and value != []}
    return cast("ExecutionFilter", wanted)
