"""Builds the checks of the servers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from celeriac.adapters import redis_server
from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue, create_app
from celeriac.db.engine import Database
from celeriac.kit.outbound import without_password
from celeriac.services.doctor.checks import Checks, Installation
from celeriac.settings import Settings
from celeriac.wiring.core import celery_options, pooler, worker_lock_seconds


def build_checks(settings: Settings, queue: CeleryTaskQueue | None = None) -> Checks:
    """Return the checks of the servers in `settings`, which may be missing there.

    Each check opens connections of its own. `queue` is this process's, if it has one.
    """

    def depths(names: Sequence[str]) -> Mapping[str, int]:
        used = queue or CeleryTaskQueue(create_app(celery_options(settings, publisher=True)))
        return used.depths(names)

    @contextmanager
    def database() -> Iterator[Database]:
        opened = Database(
            settings.require_database(),
            connections=1,
            application="celeriac-doctor",
            pooler=pooler(settings),
        )
        try:
            yield opened
        finally:
            opened.close()

    return Checks(
        Installation(
            database=database,
            redis=lambda: redis_server.describe(settings.require_redis()),
            depths=depths,
            broker_address=lambda: without_password(settings.broker_url()),
            queues=QUEUES,
            pooled=settings.database.pooler,
            lock_seconds=worker_lock_seconds(settings),
            lease_seconds=settings.worker.lease_seconds,
            notices_without_links=(
                settings.approvals.webhook is not None and settings.public_url is None
            ),
        )
    )
