"""`celeriac bulk`: one action for many executions, in the background."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import BulkJobId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.executions.selection import FILTERS, ChangeSelection, Selection, labels_of
from celeriac.domain.bulk_actions import BulkAction, BulkOutcome, BulkStatus
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client.executions import ExecutionFilter

app = typer.Typer(name="bulk", help="One action for many executions, in the background.")

_SHOWN = 10
_MANY = 1_000

Wait = Annotated[bool, typer.Option("--wait", help="Show its progress until it has ended.")]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How many executions to change, and how to begin: options of every action."""

    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="At most this many of the matches, the newest."),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only make the preview; `bulk start` starts it.")
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False
    wait: Wait = False


@api_command(app)
def cancel(
    context: CommandContext,
    *,
    selection: ChangeSelection,
    changes: Changes,
) -> None:
    """Cancel the executions that match all filters and have not ended.

    Shows a preview and asks before it starts, unless --yes is given. Exactly
    what the preview has selected is changed. Prints the id of the job.

    Examples:
      celeriac bulk cancel --task score --status pending --dry-run
      celeriac bulk cancel --queue night --yes --wait
    """
    _run(context, BulkAction.CANCEL, selection, changes)


@api_command(app)
def retry(
    context: CommandContext,
    *,
    selection: Selection,
    changes: Changes,
) -> None:
    """Run the executions again that match all filters and have ended.

    --status is failed by default. The new executions are a batch with the id of
    the job. See `bulk cancel --help` for the preview.

    Examples:
      celeriac bulk retry --error provider_error --since 2h
      celeriac bulk retry --failure-group 0199f3a2-… --yes --wait
    """
    _run(context, BulkAction.RETRY, selection, changes)


@api_command(app)
def replay(
    context: CommandContext,
    *,
    selection: Selection,
    changes: Changes,
) -> None:
    """Run recorded executions again, with the recorded answers of their models.

    So a new version of a task or an agent is tried without cost. --status is
    completed by default. Executions without a cassette are skipped.

    Examples:
      celeriac bulk replay --task qualify --since 7d --wait
    """
    _run(context, BulkAction.REPLAY, selection, changes)


@api_command(app)
def prioritise(
    context: CommandContext,
    priority: Annotated[str, typer.Argument(help="low, normal, high or critical.")],
    *,
    selection: ChangeSelection,
    changes: Changes,
) -> None:
    """Give the executions that match all filters and have not ended another priority.

    Examples:
      celeriac bulk prioritise low --task score --status pending
    """
    _run(
        context,
        BulkAction.PRIORITISE,
        selection,
        changes,
        priority=priority,
    )


@api_command(app)
def move(
    context: CommandContext,
    queue_name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to move them to.")],
    *,
    selection: ChangeSelection,
    changes: Changes,
) -> None:
    """Move the executions that match all filters and have not ended to another queue.

    Examples:
      celeriac bulk move spare --queue enrichment
    """
    _run(
        context,
        BulkAction.MOVE,
        selection,
        changes,
        to_queue=queue_name,
    )


@api_command(app)
def label(
    context: CommandContext,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="The labels to set.")
    ] = None,
    *,
    remove: Annotated[
        list[str], typer.Option("--remove", metavar="KEY", help="Remove this label. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
    selection: Selection,
    changes: Changes,
) -> None:
    """Set or remove labels of the executions that match all filters.

    Examples:
      celeriac bulk label reviewed=yes --remove draft --batch 0199f3a2-…
    """
    wanted: dict[str, str | None] = {**labels_of(labels or []), **dict.fromkeys(remove)}
    if not wanted:
        raise UsageProblemError("Name a label to set, as KEY=VALUE, or one to --remove.")
    _run(
        context,
        BulkAction.LABEL,
        selection,
        changes,
        labels=wanted,
    )


@api_command(app)
def delete(
    context: CommandContext,
    *,
    selection: Selection,
    changes: Changes,
) -> None:
    """Delete the executions that match all filters and have ended, with all that is theirs.

    Their events, results, reports, questions and files are deleted, too; sums
    and the audit trail stay. This can't be undone.

    Examples:
      celeriac bulk delete --task trial --until 30d --dry-run
    """
    _run(context, BulkAction.DELETE, selection, changes)


@api_command(app)
def start(
    context: CommandContext,
    preview: Annotated[
        UUID, typer.Argument(metavar="PREVIEW", help="The whole id, which --dry-run has printed.")
    ],
    wait: Wait = False,
) -> None:
    """Start a preview that `--dry-run` has made. Starting it again changes nothing.

    Examples:
      celeriac bulk start 0199f3a2-… --wait
    """
    _begun(context, context.client.bulk_jobs.start(preview), wait=wait)


@api_command(app)
def stop(context: CommandContext, job: BulkJobId) -> None:
    """Stop a job after its present batch. What was done stays.

    Exits with 6 if the job had ended already.
    """
    before = context.client.bulk_jobs.get(job)
    found = context.client.bulk_jobs.stop(job)
    context.output.write(found, f"{found.status} · {_progress(found)}")
    if before.status.terminal:
        raise CommandError(
            f"The job had ended already: it is {found.status}.",
            exit_code=ExitCode.ENDED_ALREADY,
            problem="ended_already",
        )


@api_command(app, "list")
def list_jobs(context: CommandContext, limit: Limit = 50) -> None:
    """List the started jobs, the newest first."""
    context.output.write_list(
        context.client.bulk_jobs.list(),
        ("ID", "ACTION", "STATUS", "TOTAL", "DONE", "SKIPPED", "FAILED", "BY", "CREATED"),
        lambda each: (
            each.id,
            each.action,
            each.status,
            f"{each.total:,}",
            f"{each.done:,}",
            f"{each.skipped:,}",
            f"{each.failed:,}",
            each.created_by,
            each.created_at,
        ),
        limit=limit,
        drop=("BY", "CREATED"),
    )


@api_command(app)
def show(context: CommandContext, job: BulkJobId, wait: Wait = False) -> None:
    """Show a job: its progress, and why executions were skipped or failed."""
    found = context.client.bulk_jobs.get(job)
    if wait and not found.status.terminal:
        found = _waited(context, found)
    context.output.write_details(
        found,
        {
            "id": found.id,
            "action": " ".join([found.action, *map(str, found.arguments.values())]),
            "filter": ", ".join(f"{name}: {value}" for name, value in found.filter.items()),
            "status": found.status,
            "error": found.error or "",
            "total": f"{found.total:,}" + (", more match" if found.more else ""),
            "done": f"{found.done:,}",
            "skipped": f"{found.skipped:,}",
            "failed": f"{found.failed:,}",
            "remaining": f"{found.remaining:,}",
            "reasons": _reasons(found.reasons),
            "created": found.created_at,
            "by": found.created_by,
            "started": found.started_at or "",
            "completed": found.completed_at or "",
            "stopped by": found.stopped_by or "",
        },
    )


@api_command(app)
def items(
    context: CommandContext,
    job: BulkJobId,
    limit: Limit = 50,
    outcome: Annotated[
        list[BulkOutcome], typer.Option("--outcome", help="Only with this outcome. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """List what became of the executions of a job, with the reasons.

    Examples:
      celeriac bulk items last --outcome skipped --outcome failed
    """
    outcomes = [each.value for each in outcome] or None
    context.output.write_list(
        context.client.bulk_jobs.items(job, outcome=outcomes),
        ("EXECUTION", "OUTCOME", "CODE", "NEW", "MESSAGE"),
        lambda each: (
            each.execution_id,
            each.outcome,
            each.code,
            each.new_execution_id,
            each.message,
        ),
        limit=limit,
        cut=("MESSAGE",),
    )


def _run(
    context: CommandContext,
    action: BulkAction,
    selection: Selection,
    changes: Changes,
    **arguments: Any,
) -> None:
    """Make a preview, show it, ask, and start it. Raises UsageProblemError."""
    wanted: ExecutionFilter = selection.for_client()
    if not wanted:
        raise UsageProblemError("No executions are selected.", cure=f"Give {FILTERS}.")
    if changes.dry_run and changes.wait:
        raise UsageProblemError("A dry run starts nothing to wait for.", cure="Omit --wait.")
    preview = context.client.bulk_jobs.preview(
        action.value, limit=changes.limit, **arguments, **wanted
    )
    if changes.dry_run:
        _show(context, preview)
        context.output.write(preview, str(preview.id))
        context.output.say(f"`celeriac bulk start {preview.id}` starts it.")
        return
    if not preview.total:
        context.output.json(preview)
        context.output.say("No execution matches.")
        return
    if not changes.yes:
        _show(context, preview)
        if not context.output.can_ask:
            raise UsageProblemError(
                f"It would change {counted(preview.total, 'execution')}; nothing was changed.",
                cure=f"Add --yes, or start this preview with `celeriac bulk start {preview.id}`.",
            )
        if not _confirmed(action, preview.total):
            context.output.say("Nothing was changed.")
            return
    _begun(context, context.client.bulk_jobs.start(preview.id), wait=changes.wait)


def _confirmed(action: BulkAction, total: int) -> bool:
    """Ask whether to start; of many executions their number must be typed."""
    question = f"{action} {counted(total, 'execution')}?"
    if total <= _MANY:
        return typer.confirm(question, err=True)
    typed: str = typer.prompt(f"{question} Type their number", err=True)
    return typed.replace(",", "").strip() == str(total)


def _show(context: CommandContext, preview: "wire.BulkPreview") -> None:
    """Say what a job would do."""
    output = context.output
    statuses = ", ".join(f"{number:,} {status}" for status, number in preview.statuses.items())
    more = "; more match than that" if preview.more else ""
    output.say(f"{preview.action}: {counted(preview.total, 'execution')} ({statuses}){more}")
    for each in preview.sample:
        output.say(f"  {each.id} {each.status.value} {each.task_name}")
    if preview.total > len(preview.sample):
        output.say(f"  and {preview.total - len(preview.sample):,} more")
    if preview.unfit:
        output.say(f"of the newest {preview.looked_at:,} these would be skipped now:")
    for skipped in preview.unfit[:_SHOWN]:
        output.say(f"  {skipped.execution_id} {skipped.message} [{skipped.code}]")
    if len(preview.unfit) > _SHOWN:
        output.say(f"  and {len(preview.unfit) - _SHOWN:,} more")


def _begun(context: CommandContext, job: "wire.BulkJob", *, wait: bool) -> None:
    """Print the id of a started job, or wait for its end. Raises CommandError unless all is well.

    Executions that are skipped are no error; those that have failed are.
    """
    if not wait:
        context.output.write(job, str(job.id))
        context.output.say(f"`celeriac bulk show {short_id(job.id)}` shows its progress.")
        return
    found = _waited(context, job)
    context.output.write(found, str(found.id))
    reasons = _reasons(found.reasons)
    context.output.say(f"{found.status}: {_progress(found)}{f' ({reasons})' if reasons else ''}")
    if found.status is not BulkStatus.COMPLETED or found.failed:
        raise CommandError(
            found.error or f"The job is {found.status}; {_progress(found)}.",
            cure=f"`celeriac bulk items {short_id(found.id)} --outcome failed` lists them.",
            problem="bulk_job_failed",
        )


def _waited(context: CommandContext, job: "wire.BulkJob") -> "wire.BulkJob":
    """Say the progress of a job until it has ended; return it."""
    said: list[str] = []

    def say(found: "wire.BulkJob") -> None:
        text = _progress(found)
        if said[-1:] != [text] and not found.status.terminal:
            said.append(text)
            context.output.say(text)

    with suppress(KeyboardInterrupt):
        return context.client.bulk_jobs.wait(job.id, on_progress=say)
    raise CommandError(
        f"Stopped waiting; the job {job.id} continues.",
        cure=f"`celeriac bulk stop {short_id(job.id)}` stops it.",
        exit_code=ExitCode.INTERRUPTED,
        problem="interrupted",
    )


def _progress(job: "wire.BulkJob") -> str:
    parts = [f"{job.done:,} done", f"{job.skipped:,} skipped"]
    parts += [f"{job.failed:,} failed"] if job.failed else []
    parts += [f"{job.remaining:,} remaining"] if job.remaining else []
    return ", ".join(parts)


def _reasons(reasons: "dict[str, int]") -> str:
    return ", ".join(f"{number:,} {code}" for code, number in reasons.items())
