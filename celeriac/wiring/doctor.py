"""Builds the checks of the servers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

from celeriac.adapters import provider_probe, redis_keys, redis_server
from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue, broker_server, create_app
from celeriac.agents.models import ANTHROPIC
from celeriac.db.engine import Database
from celeriac.domain.doctor import BrokerServer, LastingKeys
from celeriac.domain.errors import ConfigurationError, ObjectStoreError
from celeriac.kit.outbound import without_password
from celeriac.services.doctor.checks import Checks, Installation
from celeriac.settings import Settings
from celeriac.wiring.core import (
    celery_options,
    key_prefix,
    object_store,
    pooler,
    providers,
    worker_lock_seconds,
)


def build_checks(settings: Settings, queue: CeleryTaskQueue | None = None) -> Checks:
    """Return the checks of the servers in `settings`, which may be missing there.

    Each check opens connections of its own. `queue` is this process's, if it has one.
    """

    def broker() -> BrokerServer | None:
        return broker_server(create_app(celery_options(settings, publisher=True)))

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
            lasting=_lasting(settings),
            providers=lambda: provider_probe.ask_all(_remote(settings)),
            redis=lambda: redis_server.describe(settings.require_redis()),
            objects=partial(_probe_objects, settings),
            depths=depths,
            broker_address=lambda: without_password(settings.broker_url()),
            broker_server=broker,
            queues=QUEUES,
            pooled=settings.database.pooler,
            lock_seconds=worker_lock_seconds(settings),
            lease_seconds=settings.worker.lease_seconds,
            notices_without_links=(
                settings.approvals.webhook is not None and settings.public_url is None
            ),
        )
    )


def _probe_objects(settings: Settings) -> str:
    """Store, read and delete an object; return the address of the store.

    The home's own directory is made when it is first used, not by looking at it.
    """
    if settings.object_store is None and not (settings.home / "objects").is_dir():
        return f"{settings.object_store_url}, made when it is first used"
    store, key, body = object_store(settings), f"probes/{uuid4()}", b"celeriac doctor"
    store.put(key, body)
    try:
        if b"".join(store.read(key)) != body:
            raise ObjectStoreError(f"{store.address} returns other bytes than it was given.")
    finally:
        store.delete([key])
    return store.address


def _lasting(settings: Settings) -> Sequence[Callable[[], LastingKeys]]:
    """Return what samples the databases of Redis: the application's, the broker's, the results'."""
    urls = [settings.redis_url, *_of_celery(settings)] if settings.redis_url else []
    return [
        partial(redis_keys.sample, url, prefix=key_prefix(settings))
        for url in dict.fromkeys(each for each in urls if each and _is_redis(each))
    ]


def _of_celery(settings: Settings) -> Sequence[str]:
    try:
        options = celery_options(settings, publisher=True)
    except ConfigurationError:  # the check of the broker says so
        return ()
    return (options.broker_url, options.result_backend)


def _is_redis(url: str) -> bool:
    return url.startswith(("redis://", "rediss://", "unix://", "sentinel://"))


def _remote(settings: Settings) -> Mapping[str, str]:
    """Return the base URLs of the providers that are set up, but for those of this machine."""
    found = {each.name: each.base_url for each in providers(settings).ready if not each.on_loopback}
    if settings.anthropic_api_key is not None:
        found[ANTHROPIC] = f"{settings.anthropic_base_url.rstrip('/')}/v1"
    return found
