"""A worker process that executes for real, with a function in the place of its runners."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from celeriac.adapters.github_app import GithubTokens
from celeriac.adapters.secret_sources import SecretSources
from celeriac.db.engine import Database
from celeriac.domain.agents import RunnerName
from celeriac.domain.executions.model import Message, Parked, WorkerIdentity
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.services.approvals.ask import Questions
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.agent_runs import AgentRuns
from celeriac.services.executions.attempt import AttemptRegistry, Registration
from celeriac.services.executions.detached import Detached
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.heartbeat import Heartbeat
from celeriac.services.executions.lacks import Lacks
from celeriac.services.executions.run import ClaimAttempt, Execute
from celeriac.services.ports import Job, RunContext, Runners
from celeriac.services.reports import ReportQueue
from celeriac.services.secrets.hand_out import HandOut
from tests.support.core import LEASE_SECONDS, Core, describe
from tests.support.memory import MemoryRunner, MemoryRunners
from tests.support.spending import services_of

SECRET_KEY = "k" * 32

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
        *,
        coroutines: int = 0,
    ) -> None:
        used = database or core.database
        self.core = core
        self.attempts = AttemptRegistry()
        self.event_writer = EventWriter(used, self.attempts, core.live)
        self.registration = Registration(WorkerIdentity(uuid7(), "w"))
        self.heartbeat = Heartbeat(
            core.database,
            self.attempts,
            self.registration,
            lambda worker_id: describe(WorkerIdentity(worker_id, "w")),
            lease_seconds=LEASE_SECONDS,
        )
        self.lacks = Lacks()
        claim = ClaimAttempt(used, self.registration, lease_seconds=LEASE_SECONDS)
        finish = Finish(used, core.live)
        self.shutting_down = False
        self.sends = threading.Event()
        """Whether messages were asked for, for places that are free."""
        runs = AgentRuns(
            specs=SpecCache(used),
            runners=MemoryRunners({kind: MemoryRunner(work) for kind in RunnerName}),
            attempts=self.attempts,
            services=replace(
                services_of(used, core.live, core.queue, home=workdir.parent),
                questions=Questions(
                    used,
                    core.live,
                    pause_clock=self.attempts.pause_clock,
                    expect_rows=self.attempts.expect_rows,
                ),
            ),
            reports=ReportQueue(lambda _: None),
            loop=loop,
            own_loops=OwnLoops(),
            workdirs=workdir,
            lacks=self.lacks,
            other_worker_may_run=claim.other_worker_may_run,
            call_ended=lambda: None,
            hand_out=HandOut(
                used,
                lambda: SecretCipher([SECRET_KEY]),
                SecretSources({}, {}).read,
                GithubTokens("http://127.0.0.1:9").mint,
            ),
        )
        self.detached = None
        if coroutines:
            self.detached = Detached(
                runs,
                finish,
                self.attempts,
                places=coroutines,
                worker=lambda: claim.worker,
                claim_more=claim.more,
                turns=core.dispatch.turns,
                send_soon=self.sends.set,
                takes_nothing=lambda: self.shutting_down,
            )
        self.execute = Execute(
            claim=claim,
            finish=finish,
            runs=runs,
            attempts=self.attempts,
            turns=core.dispatch.turns,
            takes_nothing=lambda: self.shutting_down,
            detached=self.detached,
        )
        self.heartbeat.beat()

    def use(self, runners: Runners) -> None:
        """Run agents with `runners` from now on."""
        self.execute = replace(self.execute, runs=replace(self.execute.runs, runners=runners))

    def run(self, execution_id: UUID) -> int:
        """Do what a worker does with the message of an execution; return how many were run."""
        return self._execute(self.core.message(execution_id))

    def drain(self) -> int:
        """Send what is due and run all messages there are; return how many were run."""
        count = 0
        while self.core.dispatch.send_due():
            while (envelope := self.core.queue.take(DEFAULT_QUEUE)) is not None:
                count += self._execute(envelope.message)
        return count

    def _execute(self, message: Message) -> int:
        """Execute in time, whatever the test has done to the clock."""
        self.heartbeat.beat()
        return self.execute(message)
