"""Options that select executions, for `executions list` and the commands that change many."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast
from uuid import UUID

import typer

from celeriac.cli.core.ids import names_of
from celeriac.cli.core.output import UsageProblemError
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.states import Status, WaitingFor

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionFilter, LiveFilter

_AGO = re.compile(r"(\d{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_moment(text: str) -> datetime:
    """Return the time of `text`: a duration before now (`2h`), a date, or a local time.

    Raises BadParameter.
    """
    try:
        if (seconds := _seconds(text)) is not None:
            return datetime.now(UTC) - timedelta(seconds=seconds)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is not a time. Write 90s, 30m, 2h or 7d for that long ago, a date as "
            "2026-11-22, or a local time as 2026-11-22T09:30."
        ) from error


def _seconds(text: str) -> int | None:
    """Return the seconds of a duration such as `2h`, or None."""
    ago = _AGO.fullmatch(text.strip())
    return None if ago is None else int(ago[1]) * _SECONDS[ago[2]]


def parse_duration(text: str) -> int:
    """Return the seconds of `text`, such as `24h`. Raises BadParameter."""
    if not (seconds := _seconds(text)):
        raise typer.BadParameter(f"{text!r} is not a duration. Write 90s, 30m, 24h or 7d.")
    return seconds


time_option = partial(typer.Option, parser=parse_moment, metavar="TIME")

FILTERS = "filters such as --status, --task or --since"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What executions must have, as options. They must all match."""

    status: Annotated[
        list[Status], typer.Option("--status", "-s", help="Only with this status. Repeatable.")
    ] = field(default_factory=list)
    task: Annotated[str | None, typer.Option(help="Only of this task: name or id.")] = None
    agent: Annotated[
        str | None, typer.Option(help="Only of this agent, any version: name or id.")
    ] = None
    batch: Annotated[UUID | None, typer.Option(help="Only of this batch.")] = None
    error: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only with this code of the last error.")
    ] = None
    flag: Annotated[
        Flag | None,
        typer.Option(help="Only with this flag: what is worth a look although it did not fail."),
    ] = None
    failure_group: Annotated[
        UUID | None,
        typer.Option(metavar="GROUP", help="Only of this group of failures: its whole id."),
    ] = None
    label: Annotated[
        list[str],
        typer.Option("--label", metavar="KEY=VALUE", help="Only with this label. Repeatable."),
    ] = field(default_factory=list)
    without_label: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE", help="Only without this label. Repeatable."),
    ] = field(default_factory=list)
    since: Annotated[
        datetime | None,
        time_option(
            help="Only those created since then: 30m, 2h or 7d ago, a date, or a local time."
        ),
    ] = None
    until: Annotated[
        datetime | None, time_option(help="Only those created before then, in the same forms.")
    ] = None

    def conditions(self) -> "ExecutionFilter":
        """Return the conditions for the client, without options that are not given."""
        wanted = {
            "status": [each.value for each in self.status] or None,
            "task": self.task,
            "agent": self.agent,
            "batch_id": self.batch,
            "error_code": self.error,
            "flag": None if self.flag is None else self.flag.value,
            "failure_group": self.failure_group,
            "label": _as_filter(self.label) or None,
            "without_label": _as_filter(self.without_label) or None,
            "created_after": self.since,
            "created_before": self.until,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        return cast("ExecutionFilter", given)


@dataclass(frozen=True, kw_only=True)
class Selection(Conditions):
    """Options that select executions. They must all match."""

    view: Annotated[
        str | None,
        typer.Option(
            metavar="VIEW",
            help="Only those of this saved view, from `celeriac views list`; other filters narrow "
            "it.",
            autocompletion=names_of("views"),
        ),
    ] = None

    def for_client(self) -> "ExecutionFilter":
        """Return the filter for the client, without options that are not given."""
        wanted = self.conditions()
        if self.view is not None:
            wanted["view"] = self.view
        return wanted


def labels_of(given: Sequence[str]) -> dict[str, str]:
    """Return labels that are given as `KEY=VALUE`. Raises UsageProblemError."""
    labels = {}
    for each in given:
        key, mark, value = each.partition("=")
        if not (key and mark and value):
            raise UsageProblemError(f"{each!r} is no label: write KEY=VALUE.")
        labels[key] = value
    return labels


def _as_filter(labels: Sequence[str]) -> list[str]:
    """Return labels as the API has them. Raises UsageProblemError."""
    return [f"{key}:{value}" for each in labels for key, value in labels_of([each]).items()]


@dataclass(frozen=True, kw_only=True)
class LiveSelection(Selection):
    """The same for executions that may have not ended."""

    waiting_for: Annotated[
        WaitingFor | None, typer.Option(help="Only those that wait for this.")
    ] = None

    def for_client(self) -> "ExecutionFilter":
        """Return the filter for the client, without options that are not given."""
        wanted = super().for_client()
        if self.waiting_for is not None:
            wanted["waiting_for"] = self.waiting_for.value
        return wanted


@dataclass(frozen=True, kw_only=True)
class ChangeSelection(LiveSelection):
    """The same for executions to change that have not ended."""

    queue: Annotated[str | None, typer.Option("--queue", help="Only those in this queue.")] = None

    def for_client(self) -> "LiveFilter":
        """Return the filter for the client, without options that are not given."""
        wanted = cast("LiveFilter", super().for_client())
        if self.queue is not None:
            wanted["queue"] = self.queue
        return wanted
