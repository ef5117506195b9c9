"""`celeriac executions cancel`, `retry`, `prioritise` and `move`: one execution, or many."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import OptionalExecutionId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.executions.following import follow, show_outcome, summary
from celeriac.cli.executions.selection import FILTERS, ChangeSelection, Selection
from celeriac.domain.executions.states import Status
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionFilter
    from celeriac.wire import BulkResult

_COUNTED = 10_000
"""The server counts up to this many."""
_SHOWN = 20
_CONFLICT = "conflict"
_ONE_PRIORITY = "celeriac executions prioritise last high"
_ONE_QUEUE = "celeriac executions move last spare"

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
    selection: ChangeSelection,
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


@open_client
def prioritise(
    context: CommandContext,
    execution: OptionalExecutionId = None,
    priority: Annotated[str | None, typer.Argument(help="low, normal, high or critical.")] = None,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="PRIORITY", help="The priority for all that match."),
    ] = None,
    selection: ChangeSelection,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give an execution that has not ended another priority, or all that match.

    A pending one takes its new place in its queue at once. One whose message is
    sent already keeps its place at the broker.

    Without an id, changes the executions that match all filters and have not
    ended, newest first, to the priority of --to. Shows their number and asks
    before it changes them, unless --yes is given. Prints the ids to stdout of
    those that had another priority.

    With an id, exits with 6 if the execution has ended.

    Examples:
      celeriac executions prioritise last critical
      celeriac executions prioritise --to low --task score --status pending --dry-run
    """
    wanted = selection.for_client()
    options = {"--limit": limit, "--dry-run": dry_run, "--yes": yes, "--to": to}
    if _is_one(execution, wanted, options):
        if priority is None:
            raise UsageProblemError("Name the priority.", cure=f"As in `{_ONE_PRIORITY}`.")
        with _ended_already(str(execution)):
            found = context.client.executions.prioritise(str(execution), priority)
        context.output.json(found)
        context.output.say(f"Its priority is {found.priority}; it is {found.status.value}.")
        return
    if to is None:
        raise UsageProblemError("Name the priority of all that match, with --to.")
    many = partial(context.client.executions.prioritise_many, to, **wanted)
    _change_many(context, "Change", many, limit, dry_run=dry_run, yes=yes)


@open_client
def move(
    context: CommandContext,
    execution: OptionalExecutionId = None,
    queue_name: Annotated[
        str | None, typer.Argument(metavar="QUEUE", help="The queue to move it to.")
    ] = None,
    *,
    to: Annotated[
        str | None, typer.Option("--to", metavar="QUEUE", help="The queue for all that match.")
    ] = None,
    selection: ChangeSelection,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Move an execution that has not ended to another queue, or all that match.

    It keeps its priority and how long it has been due. One whose message is sent
    already is sent again to the other queue. A running attempt is not affected;
    its retries go to the other queue.

    Without an id, moves the executions that match all filters and have not
    ended, newest first, to the queue of --to. Shows their number and asks before
    it moves them, unless --yes is given. Prints the ids of those moved to stdout.

    With an id, exits with 6 if the execution has ended.

    Examples:
      celeriac executions move last spare
      celeriac executions move --to spare --queue enrichment --status pending --dry-run
    """
    wanted = selection.for_client()
    options = {"--limit": limit, "--dry-run": dry_run, "--yes": yes, "--to": to}
    if _is_one(execution, wanted, options):
        if queue_name is None:
            raise UsageProblemError("Name the queue.", cure=f"As in `{_ONE_QUEUE}`.")
        with _ended_already(str(execution)):
            found = context.client.executions.move(str(execution), queue_name)
        context.output.json(found)
        context.output.say(f"Its queue is {found.queue}; it is {found.status.value}.")
        return
    if to is None:
        raise UsageProblemError("Name the queue for all that match, with --to.")
    many = partial(context.client.executions.move_many, to, **wanted)
    _change_many(context, "Move", many, limit, dry_run=dry_run, yes=yes)


@contextmanager
def _ended_already(execution: str) -> Iterator[None]:
    """Raise CommandError with its exit code where the server says that the execution has ended."""
    from celeriac.client import ClientError

    try:
        yield
    except ClientError as error:
        if error.code != _CONFLICT:
            raise
        raise CommandError(
            error.message,
            cure=f"`celeriac executions show {short_id(execution)}` shows how.",
            exit_code=ExitCode.ENDED_ALREADY,
            problem="ended_already",
        ) from error


def _change_many(
    context: CommandContext,
    verb: str,
    change: Callable[..., "BulkResult"],
    limit: int | None,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    """Count what matches, ask, and change it."""
    if not _go_on(context, verb, change(dry_run=True), limit, dry_run=dry_run, yes=yes):
        return
    done = change(limit=limit, on_page=partial(_print_ids, context))
    context.output.json(done)
    context.output.say(f"{verb}d: {counted(done.affected, 'execution')}.")


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
            f"An id can't be combined with filters, {', '.join(list(others)[:-1])} or "
            f"{list(others)[-1]}.",
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
