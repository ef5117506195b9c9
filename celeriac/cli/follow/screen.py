"""The live view of one execution, for a terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from celeriac.cli.follow.describe import describe
from celeriac.cli.formatting import clock, duration, printable, tokens
from celeriac.cli.ids import short_id
from celeriac.domain.events import EventType
from celeriac.domain.states import Status

if TYPE_CHECKING:
    from celeriac.cli.follow.view import View
    from celeriac.logs import LogLine

STYLES = {
    Status.PENDING: "yellow",
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.WAITING: "magenta",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "red",
}
_EVENTS = 8
_LINES = 6
_QUESTIONS = 3
_TEXT_LINES = 8
_BAR_WIDTH = 40
_CLOCK_WIDTH = 12
_NAME_WIDTH = max(len(kind) for kind in EventType)
_SERVICE_WIDTH = 6


def render(view: "View", lines: Sequence["LogLine"]) -> RenderableType:
    """Return the whole screen: facts, progress, live text, last events, last log lines."""
    parts: list[RenderableType] = [_facts(view), _progress(view)]
    if view.waits_for or view.questions:
        parts.append(_waiting(view))
    if view.text and not view.ended:
        tail = "\n".join(view.text.splitlines()[-_TEXT_LINES:])
        parts.append(Panel(Text(printable(tail)), title="output", title_align="left"))
    parts.append(_events(view))
    if lines:
        parts.append(_log(lines))
    title = f"{printable(view.task_name)} · {view.execution_id}"
    return Panel(Group(*parts), title=title, title_align="left")


def _facts(view: "View") -> RenderableType:
    status = Text(view.status.value, style=f"bold {STYLES[view.status]}")
    grid = Table.grid(padding=(0, 3))
    waited = _between(view.created_at, view.started_at or view.ended_at)
    ran = _between(view.started_at, view.ended_at)
    grid.add_row(
        status,
        Text(f"attempt {view.attempt}"),
        Text(f"waited {duration(waited)}"),
        Text(f"ran {duration(ran)}" if view.started_at else "not started"),
        Text(f"tokens {tokens(view.input_tokens, view.output_tokens)}"),
    )
    worker = Text(f"worker {printable(view.worker or '-')}", style="dim")
    return Group(grid, worker)


def _waiting(view: "View") -> RenderableType:
    """What is waited for, and how a person answers what is asked."""
    lines = [Text(printable(f"waits: {view.waits_for}"), style="bold magenta")]
    for approval_id, title in list(view.questions.items())[:_QUESTIONS]:
        lines.append(Text(printable(f"asks: {title}"), style="magenta"))
        lines.append(Text(f"      celeriac approvals answer {short_id(printable(approval_id))}"))
    return Group(*(lines if view.waits_for else lines[1:]))


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None else ((end or datetime.now(UTC)) - begin).total_seconds()


def _progress(view: "View") -> RenderableType:
    """A bar that fills where the agent says how much there is, and pulses where it doesn't."""
    known = view.done is not None and view.total
    if view.status is Status.COMPLETED:
        bar = ProgressBar(total=1, completed=1, width=_BAR_WIDTH)
    elif known:
        bar = ProgressBar(total=view.total, completed=view.done or 0, width=_BAR_WIDTH)
    else:
        running = view.status is Status.RUNNING
        bar = ProgressBar(total=None if running else 1, width=_BAR_WIDTH, pulse=running)
    part = f"{view.done:g} of {view.total:g}" if known else ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(bar, Text(printable(f"{part} {view.note}".strip())))
    return grid


def _events(view: "View") -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, min_width=_CLOCK_WIDTH)
    grid.add_column(style="bold", no_wrap=True, min_width=_NAME_WIDTH)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for event in list(view.events)[-_EVENTS:]:
        grid.add_row(clock(event.at), event.type.value, Text(printable(describe(event))))
    return grid


def _log(lines: Sequence["LogLine"]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=_CLOCK_WIDTH)
    grid.add_column(no_wrap=True, min_width=_SERVICE_WIDTH)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in list(lines)[-_LINES:]:
        grid.add_row(clock(line.at), line.service, printable(line.event), style="dim")
    return Panel(grid, title="log", title_align="left", border_style="dim")
