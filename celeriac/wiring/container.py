"""The parts that every program shares."""

from dataclasses import dataclass
from typing import Any

from celeriac.adapters.celery_app import create_app
from celeriac.adapters.celery_queue import CeleryTaskQueue
from celeriac.adapters.redis_events import RedisLiveEvents
from celeriac.adapters.redis_watch import Watcher
from celeriac.db.engine import LOCK_SECONDS, Database
from celeriac.services.cancel import Cancel
from celeriac.services.dispatch import Dispatch
from celeriac.services.expire import Expire
from celeriac.services.plans import Plans
from celeriac.services.queries import Queries
from celeriac.services.recover import DatabaseView, Recover
from celeriac.services.replay import Replay
from celeriac.services.submit import Submit
from celeriac.settings import Settings
from celeriac.wiring.options import celery_options


@dataclass(frozen=True, slots=True)
class Container:
    """The parts that every program shares. Made after a fork, never before it."""

    settings: Settings
    database: Database
    queue: CeleryTaskQueue
    live: RedisLiveEvents
    watcher: Watcher
    plans: Plans
    dispatch: Dispatch
    submit: Submit
    cancel: Cancel
    replay: Replay
    recover: Recover
    expire: Expire

    def close(self) -> None:
        """Send what is still to be told and close all connections."""
        self.live.close()
        self.database.close()


def build(
    settings: Settings,
    *,
    service: str,
    connections: int,
    app: Any = None,
    lock_seconds: float = LOCK_SECONDS,
) -> Container:
    """Put the parts together for one process; nothing is connected yet.

    `app` is the Celery app of a worker or beat; others publish with one of their own. Raises
    ConfigurationError where an address is missing.
    """
    database = Database(
        settings.require_database(),
        connections=connections,
        application=f"celeriac-{service}",
        lock_seconds=lock_seconds,
    )
    live = RedisLiveEvents(settings.require_redis())
    queue = CeleryTaskQueue(app or create_app(celery_options(settings, publisher=True)))
    plans = Plans(database)
    dispatch = Dispatch(database, queue, live)
    submit = Submit(database, plans, dispatch)
    return Container(
        settings=settings,
        database=database,
        queue=queue,
        live=live,
        watcher=Watcher(settings.require_redis(), Queries(database).positions),
        plans=plans,
        dispatch=dispatch,
        submit=submit,
        cancel=Cancel(database, live),
        replay=Replay(database, submit),
        recover=Recover(database, queue, live, DatabaseView(settings.worker.lease_seconds)),
        expire=Expire(database, live),
    )
