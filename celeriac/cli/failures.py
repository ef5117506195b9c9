"""`celeriac failures`: failed executions, grouped by task and cause."""

from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import FailureGroupId
from celeriac.domain.failure_states import FailureState
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(name="failures", help="Failed executions, grouped by task and cause.")

_OPEN = (FailureState.NEW, FailureState.KNOWN, FailureState.REGRESSED)

Note = Annotated[
    str | None, typer.Option("--note", help="Also set the group's note, such as what was done.")
]


@api_command(app, "list")
def list_failures(
    context: CommandContext,
    limit: Limit = 50,
    state: Annotated[
        list[FailureState],
        typer.Option(
            "--state", "-s", help="Only in this state. Repeatable. Default: new, known, regressed."
        ),
    ] = [],  # noqa: B006 - Typer copies it
    task: Annotated[str | None, typer.Option(help="Only of this task: name or id.")] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="In any state.")] = False,
) -> None:
    """List groups of failures, the one with the newest execution first.

    What is resolved or muted is not shown, except with --state or --all.

    Examples:
      celeriac failures list
      celeriac failures list --state regressed --task summarise
    """
    states = state or ([] if every else list(_OPEN))
    context.output.write_list(
        context.client.failures.list(state=[each.value for each in states] or None, task=task),
        ("ID", "STATE", "TASK", "FAILURES", "RETRIED", "LAST SEEN", "TITLE"),
        lambda each: (
            each.id,
            each.state,
            each.task_name or "-",
            f"{each.failures:,}",
            f"{each.retried_completed:,}",
            each.last_seen_at,
            each.title,
        ),
        limit=limit,
        cut=("TITLE", "TASK"),
        drop=("RETRIED", "LAST SEEN"),
    )


@api_command(app)
def show(context: CommandContext, group: FailureGroupId) -> None:
    """Show a group of failures and its newest executions."""
    found = context.client.failures.get(group)
    _show(context, found)
    if not context.output.as_json and found.executions:
        context.output.table(
            ("EXECUTION", "CREATED", "ATTEMPTS", "ERROR"),
            (
                (
                    str(each.id),
                    f"{each.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
                    str(each.attempt),
                    each.error_message or "",
                )
                for each in found.executions
            ),
            cut=("ERROR",),
        )


@api_command(app)
def known(context: CommandContext, group: FailureGroupId, note: Note = None) -> None:
    """Mark a group of failures as known: somebody has looked at it."""
    _set(context, group, FailureState.KNOWN, note)


@api_command(app)
def resolve(context: CommandContext, group: FailureGroupId, note: Note = None) -> None:
    """Mark a group of failures as resolved. The next failure makes it `regressed`.

    Examples:
      celeriac failures resolve last --note "Fixed in 2.1."
    """
    _set(context, group, FailureState.RESOLVED, note)


@api_command(app)
def mute(context: CommandContext, group: FailureGroupId, note: Note = None) -> None:
    """Mute a group of failures: it stays muted, however often it recurs."""
    _set(context, group, FailureState.MUTED, note)


@api_command(app)
def note(
    context: CommandContext,
    group: FailureGroupId,
    text: Annotated[str, typer.Argument(help="The new note; an empty text removes it.")],
) -> None:
    """Set the note of a group of failures."""
    _show(context, context.client.failures.change(group, note=text))


def _set(context: CommandContext, group: str, state: FailureState, note: str | None) -> None:
    _show(context, context.client.failures.change(group, state=state.value, note=note))


def _show(context: CommandContext, found: "wire.FailureGroup") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "title": found.title,
            "task": found.task_name or found.task_id,
            "state": found.state,
            "note": found.note,
            "failures": f"{found.failures:,}",
            "retried": f"{counted(found.retried_completed, 'failure')} completed when retried"
            if found.retried_completed
            else "",
            "first seen": found.first_seen_at,
            "last seen": found.last_seen_at,
            "resolved": found.resolved_at or "",
            "error": found.error_code or "",
            "message": found.error_message or "",
        },
    )
