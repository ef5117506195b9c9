"""What runs executions in a worker process."""

from collections.abc import Callable
from dataclasses import dataclass

from celeriac.adapters.rate_limit import RedisRateLimiter
from celeriac.adapters.redis_events import CancelListener
from celeriac.agents.registry import Registry
from celeriac.db.engine import UNACKNOWLEDGED_SECONDS, Database
from celeriac.kit.loop import LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.kit.threads import Threads
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission, ProviderLimits
from celeriac.services.budgets.ledger import BudgetLedger
from celeriac.services.cassettes import CassetteStore
from celeriac.services.executions.attempt import AttemptRegistry, AttemptServices
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.other_workers import Lacks, OtherWorkers
from celeriac.services.executions.rescue import Heartbeat
from celeriac.services.executions.run import ClaimAttempt, Execute, ExecutorDependencies
from celeriac.services.executions.stop import StopCancelled
from celeriac.services.reports import ReportQueue, ReportStore
from celeriac.services.sessions import SessionStore
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build_runners, places, rates

_SHORTEST_STATEMENT = 1.0
"""Seconds that a heartbeat may take at least, on a machine that is busy."""

_BUDGET_CONNECTIONS = 4
"""Many calls may wait for the one row of a budget; results are not to wait with them."""

_LONGEST_LOCK = 2.0
_LOCKS_IN_A_LEASE = 8


def worker_lock_seconds(settings: Settings) -> float:
    """Return how long a worker's statement waits for a lock before it is tried again.

    While it waits it may hold rows of executions itself, whose leases can't be renewed meanwhile.
    """
    return min(_LONGEST_LOCK, settings.worker.lease_seconds / _LOCKS_IN_A_LEASE)


def heartbeat_database_of(settings: Settings) -> Database:
    """Return the connection of a process's heartbeat, which gives up in time for another beat."""
    lease_seconds = settings.worker.lease_seconds
    return Database(
        settings.require_database(),
        connections=1,
        application="celeriac-heartbeat",
        lock_seconds=lease_seconds / 10,
        statement_seconds=max(lease_seconds / 4, _SHORTEST_STATEMENT),
        unacknowledged_seconds=min(UNACKNOWLEDGED_SECONDS, lease_seconds / 4),
    )


_RATE_THREADS = 4
"""For questions to the rate limiter, which answers within a millisecond or not at all."""


@dataclass(frozen=True, slots=True)
class WorkerRuntime:
    """What runs executions in one worker process."""

    execute: Execute
    active: AttemptRegistry
    lacks: Lacks
    heartbeat: Heartbeat
    databases: tuple[Database, ...]
    """Besides the container's: those that must not wait for connections that others hold."""
    event_writer: EventWriter
    listener: CancelListener
    reporting: ReportQueue
    limiter: RedisRateLimiter
    loop: LoopThread
    own_loops: OwnLoops
    rate_threads: Threads
    runners: Registry

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self.listener.close()
        self.reporting.close()
        self.runners.close(self.loop)
        self.loop.close()
        self.own_loops.close()
        self.rate_threads.shutdown(wait=False)
        self.limiter.close()
        for database in self.databases:
            database.close()


def build_worker_runtime(
    container: CoreServices, *, worker: str, closing: Callable[[], bool]
) -> WorkerRuntime:
    """Put together what a worker process named `worker` needs; its threads start here."""
    settings = container.settings
    active = AttemptRegistry()
    event_writer = EventWriter(container.database, active, container.live)
    loop = LoopThread()
    own_loops = OwnLoops()
    lacks = Lacks()
    runners = build_runners(settings)
    if settings.worker.warm_runners:
        runners.warm()
    lease_seconds = settings.worker.lease_seconds
    limiter = RedisRateLimiter(settings.require_redis())
    heartbeat_database = heartbeat_database_of(settings)
    budget_database = Database(
        settings.require_database(),
        connections=_BUDGET_CONNECTIONS,
        application="celeriac-budgets",
        lock_seconds=worker_lock_seconds(settings),
    )
    rate_threads = Threads("rate limits", _RATE_THREADS)
    questions = Questions(container.database, container.live, stand_still=active.stand_still)
    reporting = ReportQueue(ReportStore(container.database).prepare)
    parts = ExecutorDependencies(
        plans=container.plans,
        claim=ClaimAttempt(container.database, worker=worker, lease_seconds=lease_seconds),
        finish=Finish(container.database, container.live),
        runners=runners,
        active=active,
        event_writer=event_writer,
        backing=AttemptServices(
            admission=Admission(
                ProviderLimits(limiter, rates(settings), container.database, rate_threads),
                BudgetLedger(budget_database, questions, container.live),
            ),
            conversations=SessionStore(container.database),
            questions=questions,
            tapes=CassetteStore(container.database),
        ),
        reporting=reporting,
        live=container.live,
        loop=loop,
        own_loops=own_loops,
        workdirs=places(settings).workdirs,
        worker=worker,
        lease_seconds=lease_seconds,
        lacks=lacks,
        others=OtherWorkers(container.database, worker=worker, live_seconds=lease_seconds),
        closing=closing,
    )
    listener = CancelListener(settings.require_redis(), StopCancelled(container.database, active))
    listener.start()
    return WorkerRuntime(
        execute=Execute(parts),
        active=active,
        lacks=lacks,
        heartbeat=Heartbeat(heartbeat_database, active, lease_seconds=lease_seconds),
        databases=(heartbeat_database, budget_database),
        event_writer=event_writer,
        listener=listener,
        reporting=reporting,
        limiter=limiter,
        loop=loop,
        own_loops=own_loops,
        rate_threads=rate_threads,
        runners=runners,
    )
