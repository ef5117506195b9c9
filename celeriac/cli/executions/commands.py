"""`celeriac executions`: list and show executions; their results, events, reports and files."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.files import Into, Overwrite, Paths, fetch_files, show_files
from celeriac.cli.core.ids import ExecutionId, short_id
from celeriac.cli.core.output import (
    CommandError,
    UsageProblemError,
    duration,
    money,
    plain,
    short,
    tokens,
)
from celeriac.cli.executions.bulk import cancel, move, prioritise, retry
from celeriac.cli.executions.export import export
from celeriac.cli.executions.following import event_line, overshoot
from celeriac.cli.executions.listing import Bulky, follow_list
from celeriac.cli.executions.notes import error_text, flagged, note, own_frames, waits_for
from celeriac.cli.executions.search import search
from celeriac.cli.executions.selection import LiveSelection, labels_of
from celeriac.cli.executions.tree import tree
from celeriac.domain.executions.states import Status
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import Execution

app = typer.Typer(name="executions", help="Runs of tasks: list, show, cancel and retry them.")


@api_command(app, "list")
def list_executions(
    context: CommandContext,
    *,
    limit: Limit = 20,
    selection: LiveSelection,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new executions and changes until Ctrl-C.")
    ] = False,
    include: Annotated[
        list[Bulky], typer.Option(help="With --json: also write this field. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """List executions, the newest first.

    Variables, results and error details may be large: they are left out, except
    for fields of --include. `celeriac executions show` has all of one execution.

    With --follow, shows the newest executions one line each, oldest first, then
    a line for each new execution and for each change of status, attempt or what
    an execution waits for. With --json each line is a JSON object. Lines are
    shown for matches only. Follows the newest 500 that have not ended.

    Examples:
      celeriac executions list
      celeriac executions list --status failed --status cancelled --task summarise
      celeriac executions list --since 2026-11-22 --json
      celeriac executions list --follow --status failed --since 2h
      celeriac executions list --waiting-for approval
      celeriac executions list --view failed-last-day --task summarise
      celeriac executions list --batch ID --json --include result
    """
    wanted = selection.for_client()
    if following:
        if selection.view is not None:
            raise UsageProblemError("--follow takes no --view: write its filters as options.")
        if selection.failure_group is not None:
            raise UsageProblemError("--failure-group shows what has failed: leave out --follow.")
        if selection.label or selection.without_label:
            raise UsageProblemError("--follow does not notice changes of labels: leave out one.")
        follow_list(context, wanted, limit=limit, include=include)
    found = context.client.executions.list(include=include or None, **wanted)
    if context.output.as_json:
        left_out = set[str](Bulky).difference(include)
        shown = [each.model_dump(by_alias=True, exclude=left_out) for each in islice(found, limit)]
        context.output.json(shown)
        return
    context.output.write_list(
        found,
        ("ID", "TASK", "STATUS", "ATTEMPT", "CREATED", "RAN", "TOKENS", "NOTE"),
        lambda each: (
            each.id,
            each.task_name,
            each.status,
            each.attempt,
            each.created_at,
            duration(each.duration_seconds),
            tokens(each.input_tokens, each.output_tokens),
            short(note(each)),
        ),
        limit=limit,
        cut=("TASK", "NOTE"),
        drop=("TOKENS", "ATTEMPT", "RAN", "CREATED"),
    )


@api_command(app)
def show(context: CommandContext, execution: ExecutionId) -> None:
    """Show everything about an execution."""
    found = context.client.executions.get(execution)
    beyond = "" if context.output.as_json else overshoot(context, found)
    context.output.write_details(found, _facts(found, beyond))


@api_command(app)
def result(context: CommandContext, execution: ExecutionId) -> None:
    """Print the result of a completed execution, and nothing else.

    Exits with 1 if it hasn't completed.
    """
    found = context.client.executions.get(execution)
    if found.status is not Status.COMPLETED:
        following = f"`celeriac monitor {short_id(execution)}` waits for it."
        raise CommandError(
            f"The execution is {found.status.value}; it has no result.",
            cure=None if found.status.terminal else following,
            problem=found.error_code or found.status.value,
        )
    context.output.write(found.result, plain(found.result))


@api_command(app)
def events(
    context: CommandContext,
    execution: ExecutionId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher number.")] = 0,
) -> None:
    """List the events of an execution, in order."""
    found = context.client.executions.events(execution, after=after)
    if context.output.as_json:
        context.output.json(list(found))
        return
    for event in found:
        context.output.raw(event_line(event))


@api_command(app)
def report(
    context: CommandContext,
    execution: ExecutionId,
    html: Annotated[bool, typer.Option("--html", help="HTML instead of Markdown.")] = False,
) -> None:
    """Print the report of an execution that has ended.

    Examples:
      celeriac executions report 0199f3a2-… --html > report.html
    """
    kind = "html" if html else "markdown"
    text = context.client.executions.report(execution, format=kind)
    context.output.write({"format": kind, "report": text}, text)


@api_command(app)
def files(context: CommandContext, execution: ExecutionId) -> None:
    """List the files in the execution's own directory."""
    show_files(context, context.client.executions.files(execution))


@api_command(app)
def download(
    context: CommandContext,
    execution: ExecutionId,
    paths: Paths = [],  # noqa: B006 - Typer copies it
    to: Into = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Download all files of an execution, or the ones that are named."""
    fetch_files(context, context.client.executions.files(execution), paths, to, overwrite=overwrite)


@api_command(app)
def label(
    context: CommandContext,
    execution: ExecutionId,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="The labels to set.")
    ] = None,
    *,
    remove: Annotated[
        list[str], typer.Option("--remove", metavar="KEY", help="Remove this label. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """Set or remove labels of an execution, by which `executions list --label` finds it.

    At any time, also after its end; all other labels stay.

    Examples:
      celeriac executions label last customer=acme region=eu
      celeriac executions label last --remove region
    """
    changes: dict[str, str | None] = {**labels_of(labels or []), **dict.fromkeys(remove)}
    if not changes:
        raise UsageProblemError("Name a label to set, as KEY=VALUE, or one to --remove.")
    found = context.client.executions.label(execution, changes)
    shown = ", ".join(f"{key}={value}" for key, value in found.labels.items())
    context.output.write(found, shown or "It has no labels.")


app.command()(cancel)
api_command(app)(export)
api_command(app)(search)
api_command(app)(tree)
app.command()(retry)
app.command()(prioritise)
app.command()(move)


def _place_in_run(execution: "Execution") -> str:
    if execution.workflow_run_id is None:
        return ""
    return f"{execution.workflow_run_id}, step {execution.step}, item {execution.item}"


def _facts(execution: "Execution", beyond: str) -> dict[str, object]:
    error = execution.error_details or {}
    return {
        "id": execution.id,
        "task": execution.task_name,
        "status": execution.status,
        "waits for": waits_for(execution),
        "trigger": execution.trigger_type,
        "priority": execution.priority,
        "queue": execution.queue,
        "attempt": f"{execution.attempt} ({counted(execution.retry_count, 'retry', 'retries')}, "
        f"{counted(execution.crash_count, 'lost worker')})",
        "worker": execution.worker_hostname or "",
        "created": execution.created_at,
        "expires": execution.expires_at or "",
        "started": execution.started_at,
        "completed": execution.completed_at,
        "ran": duration(execution.duration_seconds),
        "tokens": tokens(execution.input_tokens, execution.output_tokens),
        "cost": money(execution.cost) if execution.cost else "",
        "calls": f"{counted(execution.model_call_count, 'model call')}, "
        f"{counted(execution.tool_call_count, 'tool call')}",
        "cached": f"{execution.cache_hit_ratio:.0%} of the input"
        if execution.cache_hit_ratio
        else "",
        "flags": "; ".join(flagged(execution)),
        "overshoot": beyond,
        "cancelled by": execution.cancel_requested_by or "",
        "repeats": execution.origin_id or "",
        "started by": execution.parent_id or "",
        "workflow run": _place_in_run(execution),
        "labels": ", ".join(f"{key}={value}" for key, value in execution.labels.items()),
        "batch": execution.batch_id or "",
        "session": execution.session_id or "",
        "Celery task": execution.celery_task_id or "",
        "request": execution.request_id or "",
        "error": error_text(execution),
        "traceback": own_frames(str(error.get("traceback") or "")).rstrip(),
        "variables": plain(execution.variables),
        "result": "" if execution.result is None else plain(execution.result),
    }
