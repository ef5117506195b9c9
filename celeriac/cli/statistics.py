"""`celeriac stats`."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import duration, moment, money
from celeriac.domain.rollups import LONGEST_WINDOW_SECONDS, SHORTEST_WINDOW_SECONDS

if TYPE_CHECKING:
    from celeriac import wire

_WINDOW = re.compile(r"(\d{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HEADINGS = (
    "", "COMPLETED", "NO-OPS", "FAILED", "CANCELLED", "SUCCESS", "PER MINUTE", "WAIT P50",
    "WAIT P95", "RUN P50", "RUN P95", "RUN P99", "COST",
)  # fmt: skip


def parse_window(text: str) -> int:
    """Return the seconds of `15m`, `2h` or `7d`. Raises BadParameter."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a length of time. Write 90s, 15m, 2h or 7d.")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if not SHORTEST_WINDOW_SECONDS <= seconds <= LONGEST_WINDOW_SECONDS:
        raise typer.BadParameter(f"{text!r} is not between 60s and 92d.")
    return seconds


@open_client
def stats(
    context: CommandContext,
    *,
    window: Annotated[
        int,
        typer.Option(
            "--window", "-w", parser=parse_window, metavar="TIME", help="How far back: 15m, 2h, 7d."
        ),
    ] = "1h",  # type: ignore[assignment]  # Typer parses the default, too
    top: Annotated[
        int, typer.Option("--top", min=0, max=100, help="How many tasks and queues to list.")
    ] = 10,
    all_workspaces: Annotated[
        bool, typer.Option("--all-workspaces", help="Of all workspaces; for administrators.")
    ] = False,
) -> None:
    """Show rates, success and durations of what ended, by task and queue.

    Percentiles are off by at most 8.7 %. The last few seconds may be missing.

    Examples:
      celeriac stats
      celeriac stats --window 7d --top 20
    """
    found = context.client.statistics.get(
        window_seconds=window, top=top, all_workspaces=all_workspaces
    )
    context.output.json(found)
    if context.output.as_json:
        return
    context.output.table(_HEADINGS, _rows(found), drop=("NO-OPS", "WAIT P50", "RUN P99", "COST"))
    ever = found.all_time
    context.output.raw(
        f"since {moment(found.since)} · in all {ever.completed:,} completed, "
        f"{ever.failed:,} failed, {ever.cancelled:,} cancelled"
    )


def _rows(found: "wire.Statistics") -> Iterator[list[str]]:
    yield _row("all", found)
    for task in found.tasks:
        yield _row(f"task {task.task or task.task_id}", task)
    for queue in found.queues:
        yield _row(f"queue {queue.queue}", queue)


def _row(name: str, each: "wire.Ended") -> list[str]:
    rate = each.success_rate
    return [
        name,
        f"{each.completed:,}",
        f"{each.no_ops:,}",
        f"{each.failed:,}",
        f"{each.cancelled:,}",
        "-" if rate is None else f"{rate:.1%}",
        f"{each.completed_per_minute:,.1f}",
        *map(duration, (each.wait.p50, each.wait.p95, each.run.p50, each.run.p95, each.run.p99)),
        money(each.cost),
    ]
