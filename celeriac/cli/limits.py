"""`celeriac limits`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import LimitName, names_of
from celeriac.cli.core.output import UsageProblemError
from celeriac.domain.limit_policies import LimitCount, LimitOf, LimitPolicy
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(
    name="limits", help="How many executions with the same key run at once, or begin in a time."
)

_MAX = "How many run at once; with --seconds, how many begin in so many seconds."
_BURST = "Of a rate: how many may begin at once after a rest."
_OF = "What is counted: executions, or the runs of --workflow."
_COUNT = "Of runs: running does not count those that only wait, active does."
_POLICY = "What happens to one for which there is no slot."


@api_command(app, "list")
def list_limits(context: CommandContext, limit: Limit = 50) -> None:
    """List the limits of the workspace with their use, the newest first."""
    context.output.write_list(
        context.client.limits.list(),
        ("NAME", "OF", "KEY", "LIMIT", "HELD", "WAITING", "POLICY"),
        lambda each: (
            each.name,
            _of(each, long=False),
            each.key,
            _numbers(each),
            each.held,
            each.waiting,
            each.policy,
        ),
        limit=limit,
        cut=("NAME", "KEY", "OF"),
        drop=("POLICY", "OF"),
    )


@api_command(app, "create")
def create_limit(
    context: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The limit's name, which stays.")],
    *,
    most: Annotated[int, typer.Option("--max", min=1, help=_MAX)],
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="EXPRESSION",
            help="What has the same value shares the slots, by default all: variables.customer, or "
            "of runs input.customer.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Only of this task: its id or name.",
            autocompletion=names_of("tasks"),
        ),
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            metavar="WORKFLOW",
            help="Only of the steps of this workflow, or of its runs: its id or name.",
            autocompletion=names_of("workflows"),
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Limit how many begin in so many seconds.")
    ] = None,
    burst: Annotated[int | None, typer.Option("--burst", min=1, help=_BURST)] = None,
    policy: Annotated[LimitPolicy, typer.Option("--policy", help=_POLICY)] = LimitPolicy.QUEUE,
    of: Annotated[LimitOf, typer.Option("--of", help=_OF)] = LimitOf.EXECUTIONS,
    count: Annotated[LimitCount, typer.Option("--count", help=_COUNT)] = LimitCount.RUNNING,
) -> None:
    """Limit the executions of the workspace, a task, or the steps of a workflow, from now on.

    It also holds for those that wait already; what runs continues, and counts.
    With --of runs it limits the runs of a workflow that are submitted from now on.
    A limit of the whole workspace needs the role admin.

    Examples:
      celeriac limits create per-customer --key variables.customer --max 3
      celeriac limits create crm --task sync --max 100 --seconds 60
      celeriac limits create releases --workflow release --of runs --key input.service --max 1
    """
    if task is not None and workflow is not None:
        raise UsageProblemError("Give --task or --workflow, and not both.")
    if of is LimitOf.RUNS and workflow is None:
        raise UsageProblemError("A limit of runs is about those of a workflow: give --workflow.")
    made = context.client.limits.create(
        name,
        max=most,
        key=key,
        task=task,
        workflow=workflow,
        seconds=seconds,
        burst=burst,
        policy=policy.value,
        of=of.value,
        count=count.value,
    )
    _show(context, made)


@api_command(app)
def show(context: CommandContext, name: LimitName) -> None:
    """Show a limit and its use."""
    _show(context, context.client.limits.get(name))


@api_command(app)
def change(
    context: CommandContext,
    name: LimitName,
    *,
    most: Annotated[int | None, typer.Option("--max", min=1, help=_MAX)] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Of a rate: the seconds that --max is for.")
    ] = None,
    burst: Annotated[int | None, typer.Option("--burst", min=1, help=_BURST)] = None,
    policy: Annotated[LimitPolicy | None, typer.Option("--policy", help=_POLICY)] = None,
) -> None:
    """Change a limit while executions wait and run. Nothing that runs is cancelled.

    Examples:
      celeriac limits change per-customer --max 5
    """
    wanted = {"max": most, "seconds": seconds, "burst": burst, "policy": policy and policy.value}
    values: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if not values:
        raise UsageProblemError("Give --max, --seconds, --burst or --policy.")
    _show(context, context.client.limits.change(name, **values))


@api_command(app)
def delete(
    context: CommandContext,
    name: LimitName,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what has it.")] = False,
) -> None:
    """Delete a limit: what waited only for it begins."""
    if dry_run:
        found = context.client.limits.get(name)
        what = counted(found.in_use, found.of.value.removesuffix("s"))
        said = f"{found.name} · in use by {what}: {found.waiting:,} of them would wait no more"
        facts = {"limit": found.name, "in_use": found.in_use, "waiting": found.waiting}
        context.output.write({**facts, "deleted": False}, said)
        return
    context.client.limits.delete(name)
    context.output.write({"limit": name, "deleted": True}, f"deleted · {name}")


def _show(context: CommandContext, found: "wire.Limit") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name,
            "of": _of(found),
            "key": found.key,
            "limit": _numbers(found),
            "policy": found.policy,
            "count": found.count if found.of is LimitOf.RUNS else None,
            "held": found.held,
            "waiting": found.waiting,
            "in use": found.in_use,
            "changed": found.updated_at,
        },
    )


def _of(found: "wire.Limit", *, long: bool = True) -> str:
    if found.of is LimitOf.RUNS:
        return f"runs of {found.workflow_name}"
    if not long:
        return found.task_name or found.workflow_name or ""
    if found.task_id is not None:
        return f"the task {found.task_name}"
    return "the workspace" if found.workflow_id is None else f"the workflow {found.workflow_name}"


def _numbers(found: "wire.Limit") -> str:
    if found.seconds is None:
        return f"{counted(found.max, 'slot')}"
    burst = "" if found.burst is None else f", {found.burst:,} at once"
    return f"{found.max:,} in {found.seconds:g} s{burst}"
