"""Builds the runtime of a worker process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from celeriac.adapters.github_app import GithubTokens
from celeriac.adapters.rate_limit import RedisRateLimiter
from celeriac.adapters.redis_events import CancelListener
from celeriac.db.engine import UNACKNOWLEDGED_SECONDS, Database
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.calls import Arguments, NewCall
from celeriac.domain.executions.model import WorkerIdentity
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.kit.loop import LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.kit.threads import Threads
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission
from celeriac.services.budgets.ledger import BudgetLedger
from celeriac.services.budgets.provider_limits import ProviderLimits
from celeriac.services.cassettes import CassetteStore
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.active import RemoteControl
from celeriac.services.executions.agent_runs import AgentRuns
from celeriac.services.executions.attempt import AttemptRegistry, Registration
from celeriac.services.executions.calls import CallIdentity, StartCalls, StartRun
from celeriac.services.executions.context import AttemptServices
from celeriac.services.executions.detached import Detached
from celeriac.services.executions.dispatch import SendSoon
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.heartbeat import Heartbeat
from celeriac.services.executions.lacks import Lacks
from celeriac.services.executions.limits import AdmitSoon
from celeriac.services.executions.run import ClaimAttempt, Execute
from celeriac.services.executions.steps import StepStore
from celeriac.services.executions.stop import stop_cancelled
from celeriac.services.operations.home_files import HomeFiles
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.services.operations.sweep import Sweep
from celeriac.services.reports import ReportQueue, ReportStore
from celeriac.services.secrets.hand_out import HandOut
from celeriac.services.sessions import SessionStore
from celeriac.services.workflows.advancing import AdvanceQueue
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs, StartRequest
from celeriac.settings import Settings
from celeriac.wiring.core import (
    CoreServices,
    build_runners,
    key_prefix,
    places,
    pooler,
    rates,
    secret_cipher,
    secret_sources,
    worker_lock_seconds,
    working_files,
)

_SHORTEST_STATEMENT = 1.0
"""The shortest statement time-out of a heartbeat, in seconds: the machine may be busy."""

_BUDGET_CONNECTIONS = 4
"""Many calls may wait for one budget row; results must not wait with them."""


def heartbeat_database_of(settings: Settings) -> Database:
    """Return the heartbeat's own connection, which times out early enough for another beat."""
    lease_seconds = settings.worker.lease_seconds
    return Database(
        settings.require_database(),
        connections=1,
        application="celeriac-heartbeat",
        lock_seconds=lease_seconds / 10,
        statement_seconds=max(lease_seconds / 4, _SHORTEST_STATEMENT),
        unacknowledged_seconds=min(UNACKNOWLEDGED_SECONDS, lease_seconds / 4),
        pooler=pooler(settings),
        own_limits=True,
    )


def remote_control_of(settings: Settings) -> RemoteControl:
    """Return what answers Celery's remote control, with one connection of its own."""
    return RemoteControl(heartbeat_database_of(settings))


def build_sweep(settings: Settings) -> Sweep:
    """Return what removes old files from the home of this machine."""
    kept = settings.retention

    @contextmanager
    def open_files(rest: Callable[[], bool]) -> Iterator[HomeFiles]:
        database = Database(
            settings.require_database(),
            connections=1,
            application="celeriac-sweep",
            pooler=pooler(settings),
        )
        try:
            yield HomeFiles(
                database,
                places(settings),
                executions=kept.executions_days,
                files=kept.files_days,
                logs=kept.logs_days,
                batch=settings.keeper.batch_size,
                rest=rest,
            )
        finally:
            database.close()

    return Sweep(open_files, settings.home / "sweep.lock")


_RATE_THREADS = 4
"""The rate limiter answers within a millisecond or not at all."""


def _start_run(container: CoreServices) -> StartRun:
    """Return what starts a run of a workflow for a Celery task."""
    workflows = Workflows(container.database)
    runs = Runs(container.database, container.plans, container.advance)

    def start(actor: Actor, call: NewCall, arguments: Arguments) -> UUID:
        (given,) = arguments.variables
        request = StartRequest(
            workflow_id=workflows.resolve(actor, arguments.name),
            input=given,
            priority=arguments.priority,
            trigger_type=TriggerType.CELERY,
            call=call,
        )
        return runs.start(actor, request).run_id

    return start


class WorkerRuntime:
    """What runs executions in the worker process `worker`; its threads are started at once."""

    def __init__(
        self,
        container: CoreServices,
        *,
        worker: str,
        describe: Callable[[UUID], WorkerReport],
        shutting_down: Callable[[], bool],
        call_ended: Callable[[], None],
        coroutines: int = 0,
    ) -> None:
        """`coroutines` is how many attempts that only wait may run without a slot."""
        settings, database, live = container.settings, container.database, container.live
        lease_seconds = settings.worker.lease_seconds
        self.attempts = AttemptRegistry()
        self.event_writer = EventWriter(database, self.attempts, live)
        self.lacks = Lacks()
        self._loop = LoopThread()
        self._own_loops = OwnLoops()
        self._runners = build_runners(settings)
        if settings.worker.warm_runners:
            self._runners.warm()
        self._limiter = RedisRateLimiter(settings.require_redis(), prefix=key_prefix(settings))
        self._rate_threads = Threads("rate limits", _RATE_THREADS)
        self._advancing = AdvanceQueue(container.advance.after)
        # pools of their own for work that must not wait for a connection of the shared pool
        self._heartbeat_database = heartbeat_database_of(settings)
        self._budget_database = Database(
            settings.require_database(),
            connections=_BUDGET_CONNECTIONS,
            application="celeriac-budgets",
            lock_seconds=worker_lock_seconds(settings),
            pooler=pooler(settings),
        )
        registration = Registration(WorkerIdentity(uuid7(), worker))
        self.registration = registration

        def takes_nothing() -> bool:
            return shutting_down() or registration.paused

        self.heartbeat = Heartbeat(
            self._heartbeat_database,
            self.attempts,
            registration,
            describe,
            lease_seconds=lease_seconds,
        )
        self._reports = ReportQueue(ReportStore(database).prepare)
        questions = Questions(
            database,
            live,
            pause_clock=self.attempts.pause_clock,
            expect_rows=self.attempts.expect_rows,
        )
        limits = ProviderLimits(self._limiter, rates(settings), database, self._rate_threads)
        claim = ClaimAttempt(database, registration, lease_seconds=lease_seconds)
        self._send_soon = SendSoon(container.dispatch.try_to_send)
        self._admit_soon = AdmitSoon(container.limits, container.dispatch.try_to_send)
        finish = Finish(database, live, self._send_soon)
        runs = AgentRuns(
            specs=container.specs,
            runners=self._runners,
            attempts=self.attempts,
            services=AttemptServices(
                admission=Admission(limits, BudgetLedger(self._budget_database, questions, live)),
                sessions=SessionStore(database),
                questions=questions,
                cassettes=CassetteStore(database),
                live=live,
                steps=StepStore(
                    database,
                    live,
                    container.specs,
                    container.dispatch,
                    tree_executions=settings.worker.tree_executions,
                ),
                files=working_files(settings, database),
            ),
            reports=self._reports,
            loop=self._loop,
            own_loops=self._own_loops,
            workdirs=places(settings).workdirs,
            lacks=self.lacks,
            other_worker_may_run=claim.other_worker_may_run,
            hand_out=HandOut(
                database,
                partial(secret_cipher, settings),
                secret_sources(settings).read,
                GithubTokens(settings.github_api_url).mint,
            ),
            call_ended=call_ended,
            in_checkout=self._runners.in_checkout,
            of_run_ended=self._advancing.add,
            of_limits_ended=self._admit_soon,
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
                turns=container.dispatch.turns,
                send_soon=self._send_soon,
                takes_nothing=takes_nothing,
            )
        self.execute = Execute(
            claim=claim,
            finish=finish,
            runs=runs,
            attempts=self.attempts,
            turns=container.dispatch.turns,
            takes_nothing=takes_nothing,
            detached=self.detached,
        )
        self.start_calls = StartCalls(
            database,
            Tasks(database),
            container.submit,
            container.dispatch,
            CallIdentity(database, user=settings.calls.user, workspace=settings.calls.workspace),
            start_run=_start_run(container),
        )
        self._listener = CancelListener(
            settings.require_redis(),
            partial(stop_cancelled, database, self.attempts),
            prefix=key_prefix(settings),
        )
        self._listener.start()

    def store_counts(self, counts: PlainTaskCounts) -> None:
        """Store what plain tasks ended and run; for the thread of the heartbeat."""
        counts.store(
            self._heartbeat_database,
            lambda: self.registration.worker.id,
            hostname=self.registration.worker.node,
        )

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self._listener.close()
        if self.detached is not None:
            self.detached.close()
        self._reports.close()
        self._runners.close(self._loop)
        self._loop.close()
        self._own_loops.close()
        self._rate_threads.shutdown(wait=False)
        self._advancing.close()
        self._admit_soon.close()
        self._send_soon.close()
        self._limiter.close()
        self._heartbeat_database.close()
        self._budget_database.close()
