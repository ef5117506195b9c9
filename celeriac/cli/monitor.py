"""`celeriac monitor`: one execution, live."""

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.follow.following import follow, show_outcome
from celeriac.cli.ids import ExecutionId
from celeriac.cli.run import Timeout


@open_client
def monitor(session: CommandContext, execution: ExecutionId, timeout: Timeout = None) -> None:
    """Follow an execution live until it ends, and print its result.

    On a terminal: status, attempt, worker, progress, tokens, live output, the
    last events and, on the worker's own machine, the last log lines. Elsewhere
    one line for each event. What has ended already is shown as it ended.

    Exits with 0 where it completed, else with 1. Ctrl-C leaves it running.

    Examples:
      celeriac monitor last
      celeriac monitor 0b8f6b1d2c11
      celeriac monitor "$(celeriac run summarise --var text=… --detach)"
    """
    found = session.client.executions.get(execution)
    show_outcome(session, follow(session, found, timeout=timeout))
