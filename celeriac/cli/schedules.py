"""`celeriac schedules`."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit, gather
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import ScheduleName, starts_of
from celeriac.cli.core.output import UsageProblemError
from celeriac.domain.schedules.model import FireStatus
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client.schedules import ScheduleTiming

app = typer.Typer(name="schedules", help="When tasks and workflows start by themselves.")

_TIMES = ["%Y-%m-%dT%H:%M:%S%z"]

Variables = Annotated[
    list[str],
    typer.Option(
        "--var", "-v", metavar="NAME=TEXT", help="A variable or input; NAME:=JSON for JSON."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Options that say when a schedule fires."""

    cron: Annotated[
        str | None, typer.Option("--cron", metavar="FIELDS", help="As '30 2 * * *' or @daily.")
    ] = None
    every: Annotated[
        int | None, typer.Option("--every", metavar="SECONDS", help="Seconds between two fires.")
    ] = None
    at: Annotated[
        datetime | None,
        typer.Option("--at", formats=_TIMES, help="Once, as 2027-01-31T12:00:00Z."),
    ] = None
    zone: Annotated[
        str | None, typer.Option("--zone", help="IANA time zone of --cron; UTC if not given.")
    ] = None
    overlap: Annotated[
        Overlap | None, typer.Option("--overlap", help="While an earlier one has not ended.")
    ] = None
    misfire: Annotated[
        Misfire | None, typer.Option("--misfire", help="Which missed fires are made up for.")
    ] = None
    catch_up: Annotated[
        int | None,
        typer.Option("--catch-up", metavar="COUNT", help="How many --misfire all makes up for."),
    ] = None
    window: Annotated[
        int | None,
        typer.Option("--window", metavar="SECONDS", help="Older missed fires are not made up for."),
    ] = None
    jitter: Annotated[
        int | None,
        typer.Option("--jitter", metavar="SECONDS", help="Start up to so many seconds later."),
    ] = None

    late: Annotated[
        int | None,
        typer.Option("--late", metavar="SECONDS", help="Tell webhooks of a fire later than this."),
    ] = None

    def for_client(self, *, required: bool) -> "ScheduleTiming":
        """Return the fields for the client. Raises UsageProblemError for more than one timing."""
        number = sum(each is not None for each in (self.cron, self.every, self.at))
        if number > 1 or (required and number == 0):
            raise UsageProblemError("Give one of these: --cron, --every or --at.")
        return {
            "cron": self.cron,
            "every_seconds": self.every,
            "at": self.at,
            "zone": self.zone,
            "overlap": self.overlap,
            "misfire": self.misfire,
            "catch_up": self.catch_up,
            "window_seconds": self.window,
            "jitter_seconds": self.jitter,
            "late_seconds": self.late,
        }


@api_command(app, "list")
def list_schedules(context: CommandContext, limit: Limit = 50) -> None:
    """List the schedules of the workspace, the newest first."""
    context.output.write_list(
        context.client.schedules.list(),
        ("NAME", "STARTS", "WHEN", "ZONE", "STATE", "NEXT"),
        lambda each: (
            each.name,
            starts_of(each),
            _when(each),
            each.zone,
            _state(each),
            each.next_fire_at if each.active else None,
        ),
        limit=limit,
        cut=("NAME", "STARTS"),
        drop=("ZONE",),
    )


@api_command(app, "create")
def create_schedule(
    context: CommandContext,
    name: Annotated[str, typer.Argument(help="Unique in the workspace.")],
    *,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="The task to run.")
    ] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="WORKFLOW", help="The workflow to run.")
    ] = None,
    timing: Timing,
    var: Variables = [],  # noqa: B006 - Typer copies it
) -> None:
    """Let a task or a workflow start by itself.

    Examples:
      celeriac schedules create nightly --task summarise --cron "30 2 * * *" --zone Europe/Berlin
      celeriac schedules create often --workflow brief --every 900 --misfire skip
    """
    if (task is None) == (workflow is None):
        raise UsageProblemError("Name one of these: --task or --workflow.")
    made = context.client.schedules.create(
        name,
        task=task,
        workflow=workflow,
        input=gather(var, [], []),
        **timing.for_client(required=True),
    )
    _show(context, made)
    context.output.say(f"`celeriac schedules preview {made.name}` shows its next fires.")


@api_command(app)
def show(context: CommandContext, schedule: ScheduleName) -> None:
    """Show a schedule."""
    _show(context, context.client.schedules.get(schedule))


@api_command(app)
def change(
    context: CommandContext,
    schedule: ScheduleName,
    *,
    timing: Timing,
    var: Variables = [],  # noqa: B006 - Typer copies it
) -> None:
    """Change a schedule. With another timing its next fire is after now."""
    changed = context.client.schedules.change(
        schedule,
        input=gather(var, [], []) or None,
        **timing.for_client(required=False),
    )
    _show(context, changed)


@api_command(app)
def pause(context: CommandContext, schedule: ScheduleName) -> None:
    """Let a schedule not fire until it is resumed. Its fires that wait are skipped."""
    _show(context, context.client.schedules.pause(schedule))


@api_command(app)
def resume(
    context: CommandContext,
    schedule: ScheduleName,
    *,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="Make up for the pause, as --misfire says.")
    ] = False,
) -> None:
    """Let a paused schedule fire again. The fires of the pause are skipped."""
    _show(context, context.client.schedules.resume(schedule, catch_up=catch_up))


@api_command(app)
def run(
    context: CommandContext,
    schedule: ScheduleName,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also while an earlier one has not ended.")
    ] = False,
) -> None:
    """Start what a schedule starts, now. Its next fire stays as it is."""
    fire = context.client.schedules.run(schedule, force=force)
    otherwise = fire.status if fire.reason is None else f"{fire.status}: {fire.reason}"
    context.output.write(fire, str(fire.execution_id or fire.run_id or otherwise))


@api_command(app)
def backfill(
    context: CommandContext,
    schedule: ScheduleName,
    *,
    start: Annotated[
        datetime,
        typer.Option("--from", formats=_TIMES, help="The first time, as 2026-11-01T00:00:00Z."),
    ],
    end: Annotated[
        datetime,
        typer.Option("--to", formats=_TIMES, help="The first time after them; not in the future."),
    ],
    overlap: Annotated[
        Overlap, typer.Option("--overlap", help="queue_all: one after another; allow: at once.")
    ] = Overlap.QUEUE_ALL,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the times, and start nothing.")
    ] = False,
) -> None:
    """Start what a schedule has not started in a range of time, once for each of its times.

    Examples:
      celeriac schedules backfill nightly --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z
    """
    made = context.client.schedules.backfill(
        schedule, start, end, overlap=overlap.value, dry_run=dry_run
    )
    context.output.write(made, "\n".join(each.isoformat() for each in made.fires))
    how = "to start" if dry_run else "that start one after another"
    if overlap is Overlap.ALLOW and not dry_run:
        how = "that start at once"
    already = f"; {made.already} of the range have fired or wait" if made.already else ""
    context.output.say(f"{counted(made.count, 'fire')} {how}{already}.")


@api_command(app)
def preview(
    context: CommandContext,
    schedule: ScheduleName,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=100, help="How many fires.")
    ] = 5,
) -> None:
    """Show the next fires of a schedule, in its zone and in UTC."""
    found = context.client.schedules.preview(schedule, count=count)
    context.output.write_list(
        iter(found.fires),
        ("LOCAL", "UTC", "STARTS"),
        lambda each: (each.local, each.at, each.starts_at),
        limit=count,
    )


@api_command(app)
def fires(
    context: CommandContext,
    schedule: ScheduleName,
    limit: Limit = 50,
    status: Annotated[FireStatus | None, typer.Option(help="Only with this status.")] = None,
) -> None:
    """List the fires of a schedule, the newest first, and those that did not happen and why."""
    context.output.write_list(
        context.client.schedules.fires(schedule, status=None if status is None else status.value),
        ("SCHEDULED", "KIND", "STATUS", "COUNT", "STARTED", "WHY"),
        lambda each: (
            each.scheduled_at,
            each.kind,
            each.status,
            each.count,
            each.execution_id or each.run_id,
            each.error or each.reason,
        ),
        limit=limit,
        cut=("WHY",),
        drop=("KIND",),
    )


@api_command(app)
def delete(context: CommandContext, schedule: ScheduleName) -> None:
    """Delete a schedule. What it has started is not cancelled; what waits never starts."""
    context.client.schedules.delete(schedule)
    context.output.write({"schedule": schedule, "deleted": True}, f"deleted · {schedule}")


def _when(found: "wire.Schedule") -> str:
    if found.cron is not None:
        return found.cron
    return f"every {found.every_seconds} s" if found.at is None else f"at {found.at.isoformat()}"


def _state(found: "wire.Schedule") -> str:
    if not found.active:
        return "paused"
    return "ended" if found.next_fire_at is None else "active"


def _show(context: CommandContext, found: "wire.Schedule") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name,
            "starts": starts_of(found),
            "when": _when(found),
            "zone": found.zone,
            "overlap": found.overlap,
            "misfire": found.misfire,
            "state": _state(found),
            "next": found.next_fire_at or "",
        },
    )
