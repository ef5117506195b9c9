"""`celeriac pause`, `celeriac resume` and `celeriac pauses`."""

import time
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command, open_client
from celeriac.cli.core.ids import PauseOption
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.domain.executions.pauses import PauseScope
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(name="pauses", help="What may not begin for now.")

Scope = Annotated[
    PauseScope,
    typer.Argument(
        metavar="SCOPE", help="system, queue, worker, task, workflow, workspace, limit or key."
    ),
]
Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The name of the queue or worker, name or id of the task, workflow or limit, or key.",
    ),
]
_LOOK_SECONDS = 1.0
_NAMED = {
    PauseScope.QUEUE,
    PauseScope.TASK,
    PauseScope.WORKER,
    PauseScope.WORKFLOW,
    PauseScope.LIMIT,
    PauseScope.KEY,
}


@open_client
def pause(
    context: CommandContext,
    scope: Scope,
    name: Name = None,
    *,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="Shown to those who ask why they wait."),
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the worker runs nothing any more.")
    ] = False,
) -> None:
    """Let nothing begin of a queue, a task, the workspace or the whole system, or on a worker.

    What runs continues. Submissions are accepted, and wait until `celeriac
    resume`. A worker takes nothing new; other workers go on. Of a limit, or one
    of its keys, nobody gets a slot.

    The workspace and its limits need the role admin; queues, workers and the
    system an administrator.

    Examples:
      celeriac pause queue enrichment --reason "The supplier's API is down."
      celeriac pause task summarise --reason "Bad prompt."
      celeriac pause key limit:per-customer:42 --reason "Their data is being moved."
      celeriac pause worker celery@shop-1 --reason "Kernel upgrade." --wait
      celeriac pause system --reason "Maintenance."
    """
    _check_name(scope, name)
    if wait and scope is not PauseScope.WORKER:
        raise UsageProblemError("--wait is only for the scope worker.")
    made = context.client.pauses.pause(
        scope.value,
        reason=reason,
        queue=name if scope is PauseScope.QUEUE else None,
        task=name if scope is PauseScope.TASK else None,
        worker=name if scope is PauseScope.WORKER else None,
        workflow=name if scope is PauseScope.WORKFLOW else None,
        limit=name if scope is PauseScope.LIMIT else None,
        key=name if scope is PauseScope.KEY else None,
    )
    if wait:
        _wait_until_idle(context, str(made.worker))
    context.output.write(made, f"paused · {_what(made)} · {made.reason}")


@open_client
def resume(
    context: CommandContext,
    scope: Annotated[
        PauseScope | None,
        typer.Argument(
            metavar="SCOPE", help="system, queue, worker, task, workflow, workspace, limit or key."
        ),
    ] = None,
    name: Name = None,
    *,
    pause_id: PauseOption = None,
) -> None:
    """End a pause: what waits begins in its order.

    Name what is paused, or the pause by its id.

    Examples:
      celeriac resume queue enrichment
      celeriac resume --id last
    """
    if (scope is None) == (pause_id is None):
        raise UsageProblemError("Name either what is paused or the pause, with --id.")
    if scope is not None:
        _check_name(scope, name)
        pause_id = str(_found(context, scope, name).id)
    ended = context.client.pauses.resume(str(pause_id))
    left = f" · {counted(ended.left, 'execution')} to release" if ended.left else ""
    context.output.write(ended, f"resumed · {_what(ended)}{left}")


def _wait_until_idle(context: CommandContext, worker: str) -> None:
    """Return once the worker has noted its pause and runs nothing, or is gone."""
    said: int | None = None
    while True:
        processes = context.client.celery_health().processes
        busy = [each for each in processes if each.hostname == worker and _is_busy(each)]
        if not busy:
            return
        running = sum(each.running for each in busy)
        if running != said:
            context.output.say(f"{worker} runs {counted(running, 'execution')}.")
            said = running
        time.sleep(_LOOK_SECONDS)


def _is_busy(process: "wire.Worker") -> bool:
    return process.consuming is not False or process.running > 0


def _found(context: CommandContext, scope: PauseScope, name: str | None) -> "wire.Pause":
    """Return the pause of what is named. Raises CommandError."""
    named: str | UUID | None = name
    if scope is PauseScope.TASK:
        named = context.client.tasks.get(str(name)).id
    elif scope is PauseScope.WORKFLOW:
        named = context.client.workflows.get(str(name)).id
    elif scope is PauseScope.LIMIT:
        named = context.client.limits.get(str(name)).id
    for each in context.client.pauses.list():
        named_by_id = (each.task_id, each.workflow_id, each.limit_id)
        targets = (each.queue, each.worker, each.key, *named_by_id)
        if each.scope is scope and (named is None or named in targets):
            return each
    raise CommandError(
        f"The {scope} {name} is not paused." if name else f"The {scope} is not paused.",
        cure="`celeriac pauses list` shows what is.",
        exit_code=ExitCode.NOT_FOUND,
        problem="not_found",
    )


@api_command(app, "list")
def list_pauses(context: CommandContext, limit: Limit = 50) -> None:
    """List what is paused: queues, workers, the system, the workspace, its tasks and limits."""
    context.output.write_list(
        context.client.pauses.list(),
        ("ID", "SCOPE", "NAME", "BY", "SINCE", "REASON"),
        lambda each: (
            each.id,
            each.scope,
            _name(each),
            each.created_by,
            each.created_at,
            each.reason,
        ),
        limit=limit,
        cut=("NAME", "REASON"),
        drop=("BY",),
    )


def _check_name(scope: PauseScope, name: str | None) -> None:
    if (scope in _NAMED) != (name is not None):
        raise UsageProblemError(
            f"Name the {scope}." if name is None else f"The scope {scope} takes no name."
        )


def _name(found: "wire.Pause") -> str | None:
    of_workspace = found.task_name or found.workflow_name or found.limit_name or found.key
    return found.queue or found.worker or of_workspace or found.workspace_name


def _what(found: "wire.Pause") -> str:
    name = _name(found)
    return f"{found.scope} {name}" if name else f"the {found.scope}"
