"""What runs executions in a worker process."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from celeriac.adapters.rate_limit import RedisRateLimiter
from celeriac.adapters.redis_events import CancelListener
from celeriac.agents.registry import Registry
from celeriac.kit.loop import LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.kit.threads import Threads
from celeriac.services.active import ActiveAttempts
from celeriac.services.admission import Admission
from celeriac.services.attempt import StopReason
from celeriac.services.backing import Backing
from celeriac.services.budget_book import BudgetBook
from celeriac.services.claim import ClaimAttempt
from celeriac.services.conversations import Conversations
from celeriac.services.execute import Execute, Parts
from celeriac.services.finish import Finish
from celeriac.services.heartbeat import Heartbeat
from celeriac.services.notebook import Notebook
from celeriac.services.provider_limits import ProviderLimits
from celeriac.services.questions import Questions
from celeriac.services.report import Reports
from celeriac.services.reporting import Reporting
from celeriac.services.tapes import Tapes
from celeriac.wiring.container import Container
from celeriac.wiring.options import places, rates
from celeriac.wiring.runners import build_runners

_RATE_THREADS = 4
"""For questions to the rate limiter, which answers within a millisecond or not at all."""


@dataclass(frozen=True, slots=True)
class Machinery:
    """What runs executions in one worker process."""

    execute: Execute
    active: ActiveAttempts
    heartbeat: Heartbeat
    notebook: Notebook
    listener: CancelListener
    reporting: Reporting
    limiter: RedisRateLimiter
    loop: LoopThread
    own_loops: OwnLoops
    runners: Registry

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self.listener.close()
        self.reporting.close()
        self.runners.close(self.loop)
        self.loop.close()
        self.own_loops.close()
        self.limiter.close()


def build_machinery(container: Container, *, worker: str, closing: Callable[[], bool]) -> Machinery:
    """Put together what a worker process named `worker` needs; its threads start here."""
    settings = container.settings
    active = ActiveAttempts()
    notebook = Notebook(container.database, active, container.live)
    loop = LoopThread()
    own_loops = OwnLoops()
    runners = build_runners(settings)
    if settings.worker.warm_runners:
        runners.warm()
    lease_seconds = settings.worker.lease_seconds
    limiter = RedisRateLimiter(settings.require_redis())
    rate_threads = Threads("rate limits", _RATE_THREADS)
    questions = Questions(container.database, container.live)
    reporting = Reporting(Reports(container.database).prepare)
    parts = Parts(
        plans=container.plans,
        claim=ClaimAttempt(container.database, worker=worker, lease_seconds=lease_seconds),
        finish=Finish(container.database, container.live),
        runners=runners,
        active=active,
        notebook=notebook,
        backing=Backing(
            admission=Admission(
                ProviderLimits(limiter, rates(settings), container.database, rate_threads),
                BudgetBook(container.database, questions, container.live),
            ),
            conversations=Conversations(container.database),
            questions=questions,
            tapes=Tapes(container.database),
            threads=container.database.threads,
        ),
        reporting=reporting,
        live=container.live,
        loop=loop,
        own_loops=own_loops,
        workdirs=places(settings).workdirs,
        worker=worker,
        lease_seconds=lease_seconds,
        closing=closing,
    )
    listener = CancelListener(settings.require_redis(), _canceller(active))
    listener.start()
    return Machinery(
        execute=Execute(parts),
        active=active,
        heartbeat=Heartbeat(container.database, active, lease_seconds=lease_seconds),
        notebook=notebook,
        listener=listener,
        reporting=reporting,
        limiter=limiter,
        loop=loop,
        own_loops=own_loops,
        runners=runners,
    )


def _canceller(active: ActiveAttempts) -> Callable[[list[UUID]], None]:
    return lambda ids: active.stop(ids, StopReason.CANCELLED)
