"""A worker process that executes for real, with a function in the place of its runners."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

from celeriac.adapters.memory import MemoryRunner, MemoryRunners
from celeriac.db.engine import Database
from celeriac.domain.agent import RunnerName
from celeriac.domain.outcome import Parked
from celeriac.domain.task import DEFAULT_QUEUE
from celeriac.kit.jsontypes import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.services.active import ActiveAttempts
from celeriac.services.claim import ClaimAttempt
from celeriac.services.elsewhere import OtherWorkers
from celeriac.services.execute import Execute, Parts
from celeriac.services.finish import Finish
from celeriac.services.heartbeat import Heartbeat
from celeriac.services.notebook import Notebook
from celeriac.services.plans import Plans
from celeriac.services.ports import Job, RunContext
from celeriac.services.reporting import Reporting
from tests.support.core import LEASE_SECONDS, Core
from tests.support.spending import backing_of

Work = Callable[[Job, RunContext], Awaitable[JsonValue | Parked]]


class Worker:
    """What runs executions in a worker process; agents of every kind do `work`."""

    def __init__(
        self,
        core: Core,
        workdir: Path,
        loop: LoopThread,
        work: Work,
        database: Database | None = None,
    ) -> None:
        used = database or core.database
        self.core = core
        self.active = ActiveAttempts()
        self.notebook = Notebook(used, self.active, core.live)
        self.heartbeat = Heartbeat(used, self.active, lease_seconds=LEASE_SECONDS)
        self.reporting = Reporting(lambda _: None)
        self.parts = Parts(
            plans=Plans(used),
            claim=ClaimAttempt(used, worker="w", lease_seconds=LEASE_SECONDS),
            finish=Finish(used, core.live),
            runners=MemoryRunners({kind: MemoryRunner(work) for kind in RunnerName}),
            active=self.active,
            notebook=self.notebook,
            backing=backing_of(used),
            reporting=self.reporting,
            live=core.live,
            loop=loop,
            own_loops=OwnLoops(),
            workdirs=workdir,
            worker="w",
            lease_seconds=LEASE_SECONDS,
            others=OtherWorkers(used, worker="w", live_seconds=LEASE_SECONDS),
            closing=lambda: False,
        )
        self.execute = Execute(self.parts)

    def run(self, execution_id: UUID) -> int:
        """Do what a worker does with the message of an execution; return how many were run."""
        return self.execute(self.core.message(execution_id))

    def drain(self) -> int:
        """Send what is due and run all messages there are; return how many were run."""
        count = 0
        while self.core.dispatch.due():
            while (envelope := self.core.queue.take(DEFAULT_QUEUE)) is not None:
                count += self.execute(envelope.message)
        return count
