"""A process that takes a turn of schedules and stops in its middle, to be killed.

`python -m tests.support.schedule_keeper URL` says `stored` when a fire and what it starts are
stored, and not committed.
"""

import signal
import sys
from typing import cast

from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.submit import Submit
from celeriac.services.schedules.fire import FireSchedules
from celeriac.services.schedules.start import Start, Starter, Target
from celeriac.services.workflows.runs import Runs
from tests.support.memory import MemoryLiveEvents, MemoryTaskQueue


class Stopping(Starter):
    """Stores what is started, and stops for ever."""

    def prepare(self, actor: Actor, target: Target, *, fresh: bool = False) -> Start:
        """Return a start whose `store` does not return."""
        start = super().prepare(actor, target, fresh=fresh)

        def store(connection: Connection) -> None:
            start.store(connection)
            sys.stdout.write("stored\n")
            sys.stdout.flush()
            signal.pause()

        return Start(store, start.begin, start.execution_id, start.run_id)


def main() -> None:
    """Take a turn on the database that the command line names."""
    database = Database(sys.argv[1], connections=2)
    dispatch = Dispatch(database, MemoryTaskQueue(), MemoryLiveEvents())
    submit = Submit(database, SpecCache(database), dispatch)
    # schedules of tasks start no runs
    FireSchedules(database, Stopping(submit, cast(Runs, None)), dispatch)(10)


if __name__ == "__main__":
    main()
