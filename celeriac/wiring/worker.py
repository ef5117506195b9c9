"""Builds the runtime of a worker process."""

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
from celeriac.services.executions.attempt import AttemptRegistry
from celeriac.services.executions.context import AttemptServices
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.lacks import Lacks
from celeriac.services.executions.rescue import Heartbeat
from celeriac.services.executions.run import ClaimAttempt, Execute
from celeriac.services.executions.stop import StopCancelled
from celeriac.services.reports import ReportQueue, ReportStore
from celeriac.services.sessions import SessionStore
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build_runners, places, rates

_SHORTEST_STATEMENT = 1.0
"""The shortest statement time-out of a heartbeat, in seconds: the machine may be busy."""

_BUDGET_CONNECTIONS = 4
"""Many calls may wait for one budget row; results must not wait with them."""

_LONGEST_LOCK = 2.0
_LOCKS_IN_A_LEASE = 8


def worker_lock_seconds(settings: Settings) -> float:
    """Return how long a worker's statement waits for a lock before it is tried again.

    While it waits it may hold rows of executions itself, whose leases can't be renewed meanwhile.
    """
    return min(_LONGEST_LOCK, settings.worker.lease_seconds / _LOCKS_IN_A_LEASE)


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
    )


_RATE_THREADS = 4
"""The rate limiter answers within a millisecond or not at all."""


@dataclass(frozen=True, slots=True)
class WorkerRuntime:
    """What runs executions in one worker process."""

    execute: Execute
    attempts: AttemptRegistry
    lacks: Lacks
    heartbeat: Heartbeat
    databases: tuple[Database, ...]
    """Pools of their own for work that must not wait for a connection of the shared pool."""
    event_writer: EventWriter
    listener: CancelListener
    reports: ReportQueue
    limiter: RedisRateLimiter
    loop: LoopThread
    own_loops: OwnLoops
    rate_threads: Threads
    runners: Registry

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self.listener.close()
        self.reports.close()
        self.runners.close(self.loop)
        self.loop.close()
        self.own_loops.close()
        self.rate_threads.shutdown(wait=False)
        self.limiter.close()
        for database in self.databases:
            database.close()


def build_worker_runtime(
    container: CoreServices, *, worker: str, shutting_down: Callable[[], bool]
) -> WorkerRuntime:
    """Build the runtime of the worker process `worker`; starts its threads."""
    settings = container.settings
    attempts = AttemptRegistry()
    event_writer = EventWriter(container.database, attempts, container.live)
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
    questions = Questions(container.database, container.live, pause_clock=attempts.pause_clock)
    reports = ReportQueue(ReportStore(container.database).prepare)
    execute = Execute(
        specs=container.specs,
        claim=ClaimAttempt(container.database, worker=worker, lease_seconds=lease_seconds),
        finish=Finish(container.database, container.live),
        runners=runners,
        attempts=attempts,
        services=AttemptServices(
            admission=Admission(
                ProviderLimits(limiter, rates(settings), container.database, rate_threads),
                BudgetLedger(budget_database, questions, container.live),
            ),
            sessions=SessionStore(container.database),
            questions=questions,
            cassettes=CassetteStore(container.database),
            live=container.live,
        ),
        reports=reports,
        loop=loop,
        own_loops=own_loops,
        workdirs=places(settings).workdirs,
        lacks=lacks,
        shutting_down=shutting_down,
    )
    stop_cancelled = StopCancelled(container.database, attempts)
    listener = CancelListener(settings.require_redis(), stop_cancelled)
    listener.start()
    return WorkerRuntime(
        execute=execute,
        attempts=attempts,
        heartbeat=Heartbeat(heartbeat_database, attempts, lease_seconds=lease_seconds),
        lacks=lacks,
        databases=(heartbeat_database, budget_database),
        event_writer=event_writer,
        listener=listener,
        reports=reports,
        limiter=limiter,
        loop=loop,
        own_loops=own_loops,
        rate_threads=rate_threads,
        runners=runners,
    )
