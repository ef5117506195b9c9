"""`celeriac workflow-runs`: runs of workflows, their steps and items."""

from datetime import datetime
from typing import Annotated

import typer

from celeriac.cli.core.arguments import Limit, parse_object, read_text
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import RunId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, moment, short
from celeriac.cli.executions.selection import time_option
from celeriac.cli.workflows.following import follow_run, show_run_outcome
from celeriac.cli.workflows.tree import tree_text
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.states import ItemStatus, RunStatus

app = typer.Typer(name="workflow-runs", help="Runs of workflows, their steps and items.")


@api_command(app, "list")
def list_runs(
    context: CommandContext,
    *,
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="NAME", help="Only of this workflow.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Only with this status: running, completed, failed, cancelled, …"),
    ] = None,
    trigger: Annotated[
        TriggerType | None, typer.Option(help="Only those that were started in this way.")
    ] = None,
    since: Annotated[
        datetime | None,
        time_option(
            help="Only those created since then: 30m, 2h or 7d ago, a date, or a local time."
        ),
    ] = None,
    until: Annotated[
        datetime | None, time_option(help="Only those created before then, in the same forms.")
    ] = None,
    top_level: Annotated[
        bool, typer.Option("--top-level", help="Leave out runs that are items of steps.")
    ] = False,
    limit: Limit = 20,
) -> None:
    """List the runs of the workspace, the newest first."""
    context.output.write_list(
        context.client.workflow_runs.list(
            workflow=workflow,
            status=status,
            top_level=top_level,
            trigger_type=None if trigger is None else trigger.value,
            created_after=since,
            created_before=until,
        ),
        ("ID", "WORKFLOW", "STATUS", "CREATED", "ENDED", "ERROR"),
        lambda each: (
            each.id,
            each.workflow_name,
            each.status.value,
            each.created_at,
            moment(each.completed_at),
            short(each.error_message or ""),
        ),
        limit=limit,
        cut=("ERROR",),
        drop=("ERROR", "ENDED", "CREATED"),
    )


@api_command(app)
def show(context: CommandContext, run: RunId) -> None:
    """Show a run with its steps."""
    found = context.client.workflow_runs.get(run)
    context.output.write(found, tree_text(found))


@api_command(app)
def follow(
    context: CommandContext,
    run: RunId,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop waiting after this many seconds.")
    ] = None,
    *,
    items: Annotated[
        bool, typer.Option("--items", help="A line for each item that ends, instead of a tree.")
    ] = False,
) -> None:
    """Follow a run to its end.

    Examples:
      celeriac workflow-runs follow last
      celeriac workflow-runs follow last --items
    """
    show_run_outcome(context, follow_run(context, run, timeout=timeout, items=items))


@api_command(app)
def items(
    context: CommandContext,
    run: RunId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's id.")],
    *,
    status: Annotated[
        ItemStatus | None, typer.Option("--status", "-s", help="Only with this status.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to show.")] = 50,
) -> None:
    """List the items of a step, in their order.

    Examples:
      celeriac workflow-runs items last qualify
      celeriac workflow-runs items last qualify --status failed
    """
    context.output.write_list(
        context.client.workflow_runs.items(
            run, step, status=None if status is None else status.value
        ),
        ("ITEM", "STATUS", "EXECUTION, RUN OR QUESTION", "ERROR"),
        lambda each: (
            each.index,
            each.status,
            each.execution_id or each.child_run_id or each.approval_id or "",
            short(each.error_message or ""),
        ),
        limit=limit,
        cut=("ERROR",),
        drop=("ERROR",),
    )


@api_command(app)
def cancel(context: CommandContext, run: RunId) -> None:
    """End a run and all below it. Steps with `run: always` and undo tasks still run.

    Examples:
      celeriac workflow-runs cancel last
    """
    before = context.client.workflow_runs.get(run)
    found = context.client.workflow_runs.cancel(run)
    context.output.json(found)
    # it may end by itself in between
    if before.status.terminal or (found.status.terminal and found.cancel_requested_at is None):
        raise CommandError(
            f"The run had ended already: it is {found.status.value}.",
            cure=f"`celeriac workflow-runs show {short_id(found.id)}` shows how.",
            exit_code=ExitCode.ENDED_ALREADY,
            problem="ended_already",
        )
    if not context.output.as_json:
        asked = found.status in {RunStatus.RUNNING, RunStatus.FINISHING}
        state = "asked to stop" if asked else found.status.value
        context.output.raw(f"{state} · {found.id}")


@api_command(app)
def retry(
    context: CommandContext,
    run: RunId,
    *,
    compensation: Annotated[
        bool, typer.Option("--compensation", help="Repeat only the undo tasks that failed.")
    ] = False,
) -> None:
    """Start a run that repeats only what did not succeed in one that has ended.

    Examples:
      celeriac workflow-runs retry last
      celeriac workflow-runs retry last --compensation
    """
    accepted = context.client.workflow_runs.retry(run, compensation=compensation)
    context.output.write(accepted, str(accepted.run_id))


@api_command(app)
def fork(
    context: CommandContext,
    run: RunId,
    step: Annotated[
        str | None, typer.Option("--step", help="It and all steps that need it run again.")
    ] = None,
    item: Annotated[
        list[int] | None, typer.Option(min=0, help="Only this item of the step. Repeatable.")
    ] = None,
    input_file: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Another input as JSON.")
    ] = None,
) -> None:
    """Start a run that begins at a step of one that has ended.

    Examples:
      celeriac workflow-runs fork last --step draft
      celeriac workflow-runs fork last --step qualify --item 17
    """
    given = None if input_file is None else parse_object(read_text(input_file), input_file)
    accepted = context.client.workflow_runs.fork(run, step=step, items=item or [], input=given)
    context.output.write(accepted, str(accepted.run_id))
