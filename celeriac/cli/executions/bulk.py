"""`celeriac executions cancel` and `retry`: one execution, or many by filter."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import OptionalExecutionId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.executions.following import follow, show_outcome, summary
from celeriac.cli.executions.selection import FILTERS, LiveSelection, Selection
from celeriac.domain.executions.states import Status
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionFilter
    from celeriac.wire import BulkResult

_COUNTED = 10_000
"""The server counts up to this many."""
_SHOWN = 20

Limit = Annotated[
    int | None,
    typer.Option("--limit", "-n", min=1, help="At most this many of the matches, newest first."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the matches; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@open_client
def cancel(
    context: CommandContext,
    execution: OptionalExecutionId = None,
    *,
    selection: LiveSelection,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Cancel an execution, or all executions that match.

    Waiting executions end immediately, running ones within seconds.

    With an id, exits with 6 if the execution had already ended.

    Without an id, cancels the executions that match all filters and have not
    ended, newest first. Shows their number and asks before it cancels them,
    unless --yes is given. Prints their ids to stdout.

    Examples:
      celeriac executions cancel last
      celeriac executions cancel --status pending --task score --since 2h --dry-run
      celeriac executions cancel --batch 0199f3a2-… --yes
    """
    wanted = selection.for_client()
    if _is_one(execution, wanted, {"--limit": limit, "--dry-run": dry_run, "--yes": yes}):
        _cancel_one(context, str(execution))
        return
    matching = context.client.executions.cancel_many(dry_run=True, **wanted)
    if not _go_on(context, "Cancel", matching, limit, dry_run=dry_run, yes=yes):
        return
    done = context.client.executions.cancel_many(
        limit=limit, on_page=partial(_print_ids, context), **wanted
    )
    context.output.json(done)
    context.output.say(
        f"Cancelled: {counted(done.affected, 'execution')}; running ones stop within seconds."
    )


def _cancel_one(context: CommandContext, execution: str) -> None:
    before = context.client.executions.get(execution)
    found = context.client.executions.cancel(execution)
    context.output.json(found)
    # it may end by itself in between
    if before.status.terminal or found.status in {Status.COMPLETED, Status.FAILED}:
        raise CommandError(
            f"The execution had ended already: it is {found.status.value}.",
            cure=f"`celeriac executions show {short_id(execution)}` shows how.",
            exit_code=ExitCode.ENDED_ALREADY,
            problem="ended_already",
        )
    if not context.output.as_json:
        ended = found.status.terminal
        context.output.raw(summary(found) if ended else f"asked to stop · {found.id}")


@open_client
def retry(
    context: CommandContext,
    execution: OptionalExecutionId = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow it to its end, or print its id at once.")
    ] = False,
    selection: Selection,
    limit: Limit = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            help="The same key with the same filters creates nothing twice. Give --since as a "
            "time, not as a duration.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Run an execution again that has ended, or all executions that match.

    Each gets a new execution with the same variables. The task and the agent are
    used as they are now.

    Without an id, retries the executions that match all filters, newest first;
    --status is failed by default. Shows their number and asks before it retries
    them, unless --yes is given. Prints the new ids to stdout. Executions that
    can't be retried are reported on stderr, and the exit code is 1.

    Examples:
      celeriac executions retry last --wait
      celeriac executions retry --status failed --since 2h --dry-run
      celeriac executions retry --task score --error provider_error --yes
    """
    wanted = selection.for_client()
    if _is_one(execution, wanted, {"--limit": limit, "--dry-run": dry_run, "--yes": yes}):
        _retry_one(context, str(execution), key, wait=wait)
        return
    if wait:
        raise UsageProblemError("--wait follows one execution; give its id or omit --wait.")
    matching = context.client.executions.retry_many(dry_run=True, **wanted)
    if not _go_on(context, "Retry", matching, limit, dry_run=dry_run, yes=yes):
        return
    done = context.client.executions.retry_many(
        limit=limit, idempotency_key=key, on_page=partial(_print_ids, context), **wanted
    )
    context.output.json(done)
    context.output.say(f"Retried: {counted(done.affected, 'execution')}.")
    for each in done.skipped[:_SHOWN]:
        context.output.say(f"skipped {each.execution_id}: {each.message} [{each.code}]")
    if done.skipped:
        raise CommandError(
            f"{counted(len(done.skipped), 'execution')} could not be retried.",
            cure="--json lists all of them with their reasons."
            if len(done.skipped) > _SHOWN
            else None,
            problem="skipped",
        )


def _retry_one(context: CommandContext, execution: str, key: str | None, *, wait: bool) -> None:
    accepted = context.client.executions.retry(execution, idempotency_key=key)
    if wait:
        begun = context.client.executions.get(accepted.execution_id)
        show_outcome(context, follow(context, begun, timeout=None))
    else:
        context.output.write(accepted, str(accepted.execution_id))


def _is_one(execution: str | None, wanted: "ExecutionFilter", others: Mapping[str, object]) -> bool:
    """Return whether an id was given, and no filter; raises UsageProblemError for both or none.

    `others` are the other options that need a filter.
    """
    if execution is None and not wanted:
        raise UsageProblemError(
            "No executions are selected.", cure=f"Give the id of one, or {FILTERS}."
        )
    given = [name for name, value in others.items() if value]
    if execution is not None and (wanted or given):
        raise UsageProblemError(
            "An id can't be combined with filters, --limit, --dry-run or --yes.",
            cure="Omit the id or the options.",
        )
    return execution is not None


def _go_on(
    context: CommandContext,
    verb: str,
    matching: "BulkResult",
    limit: int | None,
    *,
    dry_run: bool,
    yes: bool,
) -> bool:
    """Show the number of matches; return whether to change them. Raises UsageProblemError."""
    number = min(matching.remaining, limit or matching.remaining)
    found = counted(number, "execution") + (" or more" if number >= _COUNTED else "")
    if dry_run or not number:
        if dry_run:
            context.output.write(matching, f"{verb}: {found}.")
        else:
            context.output.json(matching)
            context.output.say("No execution matches.")
        return False
    if yes:
        return True
    if not context.output.can_ask:
        raise UsageProblemError(
            f"{found} match; nothing was changed.",
            cure="Add --yes to change them, or --dry-run to only count them.",
        )
    return typer.confirm(f"{verb} {found}?", err=True)


def _print_ids(context: CommandContext, page: "BulkResult") -> None:
    """Print the changed executions of one request, before an error of the next one."""
    if not context.output.as_json:
        for execution_id in page.execution_ids:
            context.output.raw(str(execution_id))
