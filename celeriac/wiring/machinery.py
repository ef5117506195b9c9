"""What runs executions in a worker process."""

from collections.abc import Callable
from dataclasses import dataclass

from celeriac.adapters.rate_limit import RedisRateLimiter
from celeriac.adapters.redis_events import CancelListener
from celeriac.agents.registry import Registry
from celeriac.kit.loop import LoopThread
from celeriac.services.active import ActiveAttempts
from celeriac.services.admission import Admission
from celeriac.services.backing import Backing
from celeriac.services.budget_book import BudgetBook
from celeriac.services.cancel import StopCancelled
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
    runners: Registry

    def close(self) -> None:
        """End the threads; what still runs is cancelled."""
        self.listener.close()
        self.reporting.close()
        self.runners.close(self.loop)
        self.loop.close()
        self.limiter.close()


def build_machinery(container: Container, *, worker: str, closing: Callable[[], bool]) -> Machinery:
    """Put together what a worker process named `worker` needs; its threads start here."""
    settings = container.settings
    active = ActiveAttempts()
    notebook = Notebook(container.database, active, container.live)
    loop = LoopThread()
    runners = build_runners(settings)
    if settings.worker.warm_runners:
        runners.warm()
    lease_seconds = settings.worker.lease_seconds
    limiter = RedisRateLimiter(settings.require_redis())
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
                ProviderLimits(limiter, rates(settings), container.database),
                BudgetBook(container.database, questions, container.live),
            ),
            conversations=Conversations(container.database),
            questions=questions,
            tapes=Tapes(container.database),
        ),
        reporting=reporting,
        live=container.live,
        loop=loop,
        workdirs=places(settings).workdirs,
        worker=worker,
        lease_seconds=lease_seconds,
        closing=closing,
    )
    listener = CancelListener(settings.require_redis(), StopCancelled(container.database, active))
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
        runners=runners,
    )
