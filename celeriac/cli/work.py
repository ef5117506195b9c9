"""`celeriac monitor`; an execution or a run of a workflow, by an id whose kind is not said."""

from typing import TYPE_CHECKING, TypeVar

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import ExecutionOrRunId
from celeriac.cli.core.output import CommandError, ExitCode
from celeriac.cli.executions.following import follow, show_outcome
from celeriac.cli.executions.run import Timeout
from celeriac.cli.workflows.following import follow_run, show_run_outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac.client import Client
    from celeriac.wire import Run

T = TypeVar("T")

_NOT_FOUND = 404


def execution_or_run(client: "Client", whole: str, of_execution: "Callable[[str], T]") -> "T | Run":
    """Return what `of_execution` returns for an id, or the run of a workflow that has it.

    Raises ClientError, and CommandError if it is the id of neither.
    """
    from celeriac.client import ClientError

    try:
        return of_execution(whole)
    except ClientError as error:
        if error.status != _NOT_FOUND:
            raise
    try:
        return client.workflow_runs.get(whole)
    except ClientError as error:
        if error.status != _NOT_FOUND:
            raise
        raise CommandError(
            f"There is no execution and no run of a workflow {whole}.",
            cure="`celeriac executions list` and `celeriac workflow-runs list` show them.",
            exit_code=ExitCode.NOT_FOUND,
            problem="not_found",
        ) from error


@open_client
def monitor(context: CommandContext, work: ExecutionOrRunId, timeout: Timeout = None) -> None:
    """Follow an execution, or a run of a workflow, live to its end, and print its result.

    On a terminal: status, attempt, worker, progress, tokens, live output, the
    last events and, on the worker's own machine, the last log lines. Without a
    terminal: one line for each event.

    Exits with 0 if it completed, else with 1. Ctrl-C stops following; the
    execution continues.

    Examples:
      celeriac monitor last
      celeriac monitor 0b8f6b1d2c11
      celeriac monitor "$(celeriac run summarise --var text=… --detach)"
    """
    from celeriac.wire import Run

    found = execution_or_run(context.client, work, context.client.executions.get)
    if isinstance(found, Run):
        show_run_outcome(context, follow_run(context, found.id, timeout=timeout))
        return
    show_outcome(context, follow(context, found, timeout=timeout))
