"""The Celery app: one factory for workers, beat, and whoever publishes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqp.exceptions import AMQPError
from celery import Celery
from kombu import Producer, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from celeriac.adapters.compression import UncompressedAMQP, unpack_nothing
from celeriac.adapters.redis_transport import use_for_redis

QUEUES = ("task_execution", "default", "workflows", "enrichment", "scheduled", "monitoring")
"""The queues of REQUIREMENTS A7 and E1; a task may name others, which a worker must be given."""

OWN_QUEUES = frozenset({"task_execution", "scheduled", "monitoring"})
"""Queues that bring Celeriac's tasks alone; the others are for users' tasks as well."""

ROUTES = {
    "celeriac.tasks.execution.*": {"queue": "task_execution"},
    "celeriac.tasks.scheduled.*": {"queue": "scheduled"},
    "celeriac.tasks.monitoring.*": {"queue": "monitoring"},
}

PRIORITY_STEPS = (0, 3, 6, 9)

_GREEN_POOLS = frozenset({"gevent", "eventlet"})


def pool_refusal(pool: str) -> str | None:
    """Say why a worker can't use Celery's `pool`; None where it can.

    The libraries of agents need real threads, which these pools replace.
    """
    if pool not in _GREEN_POOLS:
        return None
    return f"The pool {pool} is not supported; use threads, prefork or solo."


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryOptions:
    """What the app is made from; `extra` are Celery settings by their lower-case names."""

    broker_url: str
    result_backend: str
    visibility_timeout: int = 300
    publish_timeout: float | None = None
    """Seconds until a publication fails; None for workers, whose sockets block in BRPOP."""
    extra: Mapping[str, Any]


BROKER_FAILURES = (KombuError, AMQPError, RedisError, OSError)
"""What publishing raises, whatever the transport; a full pool's LimitExceeded is a KombuError."""

_POOL_SECONDS = 5.0
"""How long a caller waits for one of the connections that all share."""


@contextmanager
def producer_of(app: Celery) -> Iterator[Producer]:
    """Yield a producer of the app's pool; raises LimitExceeded where none gets free in time."""
    pool = app.producer_pool
    # kombu's pool has twice as many producers as connections, and waits for those without a bound
    pool._acquire_connection = partial(  # noqa: SLF001
        pool.connections.acquire, block=True, timeout=_POOL_SECONDS
    )
    with pool.acquire(block=True, timeout=_POOL_SECONDS) as producer:
        yield producer


def create_app(options: CeleryOptions) -> Celery:
    """Return a configured app; nothing is connected yet."""
    use_for_redis()
    unpack_nothing()
    app = Celery("celeriac", amqp=UncompressedAMQP)
    app.conf.update(
        broker_url=options.broker_url,
        result_backend=options.result_backend,
        imports=["celeriac.worker.tasks"],
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        enable_utc=True,
        task_routes=ROUTES,
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        task_default_queue="default",
        task_create_missing_queues=True,
        task_publish_retry=False,
        # Redis results and a lost connection: cancelling long tasks then loses them (FACTS).
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_enable_soft_shutdown_on_idle=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=options.publish_timeout or 4,
        broker_transport_options=_transport(options),
        redis_socket_timeout=options.publish_timeout or 30,
        redis_socket_connect_timeout=2,
        redis_retry_on_timeout=False,
        beat_scheduler="celeriac.worker.beat:Keeper",
        worker_consumer="celeriac.worker.consumer:Consumer",
        beat_schedule={},
    )
    app.conf.update(options.extra)
    return app


def _transport(options: CeleryOptions) -> dict[str, Any]:
    if not options.broker_url.startswith(("redis", "rediss", "sentinel")):
        return {}
    return {
        "visibility_timeout": options.visibility_timeout,
        # a dead worker's messages come back seconds after the timeout, not minutes (FACTS)
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # one that dies while it looks for them holds up the others no longer than this
        "unacked_mutex_expire": 10,
        "priority_steps": list(PRIORITY_STEPS),
        "socket_timeout": options.publish_timeout or 30,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": False,
    }
