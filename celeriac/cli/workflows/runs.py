"""`celeriac workflow-runs`: runs of workflows, their steps and items."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit, parse_object, parse_pair, read_text
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import RunId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, moment, short
from celeriac.cli.executions.selection import time_option
from celeriac.cli.workflows.following import follow_run, show_run_outcome
from celeriac.cli.workflows.tree import open_questions, tree_text
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.states import ItemStatus, RunStatus

if TYPE_CHECKING:
    from celeriac.wire import AcceptedRun

app = typer.Typer(
    name="workflow-runs", help="Runs of workflows: list, follow, cancel and repeat them."
)


Follow = Annotated[
    bool,
    typer.Option("--follow", help="Follow the new run to its end, and print its result."),
]
Timeout = Annotated[
    float | None, typer.Option(min=0, help="Stop following after this many seconds.")
]


@api_command(app, "list")
def list_runs(
    context: CommandContext,
    *,
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="NAME", help="Only of this workflow.")
    ] = None,
    status: Annotated[
        RunStatus | None, typer.Option("--status", "-s", help="Only with this status.")
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
            status=None if status is None else status.value,
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
    """Show a run with its steps, and what it waits for.

    Examples:
      celeriac workflow-runs show last
    """
    found = context.client.workflow_runs.get(run)
    questions = {} if context.output.as_json else open_questions(context, found)
    context.output.write(found, tree_text(found, questions))


@api_command(app)
def follow(
    context: CommandContext,
    run: RunId,
    timeout: Timeout = None,
    *,
    items: Annotated[
        bool, typer.Option("--items", help="A line for each item that ends, instead of a tree.")
    ] = False,
) -> None:
    """Follow a run to its end, and print its result.

    A terminal shows the steps as a tree. Ctrl-C stops following, not the run.
    Exits with 1 if the run fails or is cancelled.

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
    """List the items of a step: executions, runs of workflows, or a question.

    A step has an item for each entry of its map's list; without a map, one.

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
        bool, typer.Option("--compensation", help="Run only the undo tasks that failed.")
    ] = False,
    follow: Follow = False,
    timeout: Timeout = None,
) -> None:
    """Repeat what did not succeed in a run that has failed or was cancelled.

    Starts a new run, which takes over the completed steps and items, and prints
    its id.

    Examples:
      celeriac workflow-runs retry last
      celeriac workflow-runs retry last --follow
      celeriac workflow-runs retry last --compensation
    """
    accepted = context.client.workflow_runs.retry(run, compensation=compensation)
    _started(context, accepted, follow=follow, timeout=timeout)


@api_command(app)
def fork(
    context: CommandContext,
    run: RunId,
    *,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            metavar="STEP",
            help="The step from which to run again, or a path to a step of a run below, as in "
            '"qualify[3]/enrich". If not given: all that did not succeed.',
        ),
    ] = None,
    item: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            metavar="INDEX",
            help="Only this item of the step, a map, runs again; they count from 0. Repeatable.",
        ),
    ] = None,
    input_file: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="Another input, a JSON object; - for stdin."),
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP=TEXT",
            help="A result that a step has instead of running; STEP:=JSON for other values. "
            "Repeatable.",
        ),
    ] = None,
    follow: Follow = False,
    timeout: Timeout = None,
) -> None:
    """Start a new run from a step of one that has ended.

    It takes over what was before the step. The step, and all steps that need
    it, run again. Prints the id of the new run.

    Examples:
      celeriac workflow-runs fork last --step draft --follow
      celeriac workflow-runs fork last --step qualify --item 17 --input fixed.json
      celeriac workflow-runs fork last --step "qualify[3]/enrich" --follow
      celeriac workflow-runs fork last --result "draft=A better text."
    """
    given = None if input_file is None else parse_object(read_text(input_file), input_file)
    results = dict(parse_pair(pair, option="--result", what="result") for pair in result or [])
    accepted = context.client.workflow_runs.fork(
        run, step=step, items=item or [], input=given, results=results or None
    )
    _started(context, accepted, follow=follow, timeout=timeout)


def _started(
    context: CommandContext, accepted: "AcceptedRun", *, follow: bool, timeout: float | None
) -> None:
    """Write the id of a new run, or follow it and write its result."""
    if follow:
        ended = follow_run(context, accepted.run_id, timeout=timeout)
        show_run_outcome(context, ended)
    else:
        context.output.write(accepted, str(accepted.run_id))
