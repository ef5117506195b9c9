"""Celery: the application, and the task queue of executions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from amqp.exceptions import AMQPError, ChannelError, MessageNacked
from celery import Celery
from celery.app.amqp import Queues
from kombu import Connection, Producer, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from celeriac.adapters.compression import UncompressedAMQP, refuse_compression
from celeriac.adapters.queue_search import count_tasks, is_redis
from celeriac.adapters.redis_client import sentinel_options
from celeriac.adapters.redis_transport import use_for_redis
from celeriac.domain.doctor import BrokerServer
from celeriac.domain.errors import BrokerUnavailableError, UnavailableError
from celeriac.domain.executions.model import QueuedMessage
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import MOST_LISTED, PlainWaiting, WaitingTasks, is_plain
from celeriac.kit.outbound import without_password
from celeriac.kit.redis_urls import SentinelUrl

QUEUES = ("task_execution", "default", "workflows", "enrichment", "scheduled", "monitoring")
"""Queues of each worker; a task may name others, which a worker must be started with."""

OWN_QUEUES = frozenset({"task_execution", "scheduled", "monitoring"})
"""Queues of Celeriac's tasks only; the others are also for users' tasks."""

ROUTES = {
    "celeriac.tasks.execution.*": {"queue": "task_execution"},
    "celeriac.tasks.scheduled.*": {"queue": "scheduled"},
    "celeriac.tasks.monitoring.*": {"queue": "monitoring"},
}

_STEPS = (0, 3, 6, 9)
"""Priorities of RabbitMQ by ours, low to critical; Redis takes the smallest first."""

_GREEN_POOLS = frozenset({"gevent", "eventlet"})


def pool_refusal(pool: str) -> str | None:
    """Return why Celery's `pool` is refused, or None.

    The libraries of agents need real threads, which green pools replace.
    """
    if pool not in _GREEN_POOLS:
        return None
    return f"The pool {pool} is not supported; use threads, prefork or solo."


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryOptions:
    """Settings of the app; `extra` are Celery settings by their lower-case names."""

    broker_url: str
    result_backend: str
    visibility_timeout: int = 300
    queue_type: str = "quorum"
    """Of queues in RabbitMQ: `quorum` or `classic`."""
    delivery_limit: int = 10_000
    """Deliveries after which RabbitMQ drops a message of a quorum queue."""
    key_prefix: str = ""
    """Beginning of all keys in Redis."""
    publish_timeout: float | None = None
    """Time limit of a publication in seconds; None for workers, whose sockets block in BRPOP."""
    extra: Mapping[str, Any]


BROKER_FAILURES = (KombuError, AMQPError, MessageNacked, RedisError, OSError)
"""The errors of publishing with any transport; LimitExceeded of a pool is a KombuError."""

_POOL_SECONDS = 5.0
"""How long a caller waits for a connection of the pool."""


@contextmanager
def broker_errors(app: Celery) -> Iterator[None]:
    """Raise BrokerUnavailableError for errors of the broker in the block."""
    try:
        yield
    except BROKER_FAILURES as error:
        address = without_password(app.conf.broker_url)
        raise BrokerUnavailableError(f"The broker at {address} doesn't answer: {error}") from error


@contextmanager
def producer_of(app: Celery) -> Iterator[Producer]:
    """Yield a producer of the app's pool; raises LimitExceeded if none is free in time."""
    pool = app.producer_pool
    # kombu's pool has twice as many producers as connections, and waits for connections forever
    pool._acquire_connection = partial(  # noqa: SLF001
        pool.connections.acquire, block=True, timeout=_POOL_SECONDS
    )
    with pool.acquire(block=True, timeout=_POOL_SECONDS) as producer:
        try:
            yield producer
        except (AMQPError, OSError):
            # the confirmation of this message must not be taken for one of the next
            if not _is_redis(app.conf.broker_url):
                producer.connection.collect()
            raise


_CONSUMER_TIMEOUT_MS = 365 * 86_400_000
"""How long RabbitMQ waits for an acknowledgement, instead of 30 minutes: while a slot is busy."""


class _DeclaredQueues(Queues):
    """Queues that are declared alike, those of tasks and of `-Q` too."""

    arguments: Mapping[str, Any] | None = None

    def new_missing(self, name: str) -> Queue:
        return Queue(name, self.autoexchange(name), name, queue_arguments=self.arguments)


class _QueueDeclarations(UncompressedAMQP):
    """Declares all queues with the arguments in the setting `queue_arguments`."""

    queues_cls = _DeclaredQueues

    def Queues(self, *args: Any, **options: Any) -> _DeclaredQueues:  # noqa: N802 - Celery's name
        queues: _DeclaredQueues = super().Queues(*args, **options)
        queues.arguments = self.app.conf.queue_arguments
        return queues


def _queue_arguments(options: CeleryOptions) -> dict[str, Any] | None:
    if _is_redis(options.broker_url):
        return None
    if options.queue_type == "classic":
        return {"x-queue-type": "classic", "x-consumer-timeout": _CONSUMER_TIMEOUT_MS}
    return {
        "x-queue-type": options.queue_type,
        "x-delivery-limit": options.delivery_limit,
        # a long execution must not lose its channel
        "x-consumer-timeout": _CONSUMER_TIMEOUT_MS,
    }


def create_app(options: CeleryOptions) -> Celery:
    """Return a configured app; connects on first use. Raises ValueError for a malformed URL."""
    use_for_redis()
    refuse_compression()
    app = Celery("celeriac", amqp=_QueueDeclarations, loader="celeriac.worker.modules:ModuleLoader")
    arguments = _queue_arguments(options)
    app.conf.update(
        queue_arguments=arguments,
        broker_url=_for_celery(options.broker_url),
        result_backend=_for_celery(options.result_backend),
        result_backend_transport_options=_redis_options(options.result_backend, options, "results"),
        imports=["celeriac.worker.tasks", "celeriac.worker.calls"],
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        enable_utc=True,
        task_routes=ROUTES,
        task_queues=[Queue(name, routing_key=name, queue_arguments=arguments) for name in QUEUES],
        task_default_queue="default",
        task_create_missing_queues=True,
        task_publish_retry=False,
        # Redis results and a lost connection: cancelling long tasks then loses them.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        # rows tell what happens: events that nobody reads would fill Redis
        worker_send_task_events=False,
        task_send_sent_event=False,
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
        **_acknowledgement(options),
    )
    app.conf.update(options.extra)
    return app


def _acknowledgement(options: CeleryOptions) -> dict[str, Any]:
    """Return when messages of executions are acknowledged, and how many a busy worker takes.

    With Redis they are acknowledged as soon as a slot takes them, immediately before the claim: an
    unacknowledged one is delivered again after the visibility timeout, however long its execution
    runs. A worker whose slots are all busy takes no message, unless its prefetch multiplier is set.
    RabbitMQ delivers as many messages as are acknowledged, to busy workers too, so there one is
    acknowledged when its slot is free again (docs/adr/0038-early-acknowledgement.md).
    """
    if not _is_redis(options.broker_url):
        return {}
    return {
        "task_annotations": {EXECUTE_TASK: {"acks_late": False}},
        "worker_disable_prefetch": options.extra.get("worker_prefetch_multiplier", 1) == 1,
    }


def _is_redis(broker_url: str) -> bool:
    return broker_url.startswith(("redis", "sentinel"))


def _for_celery(url: str) -> str:
    sentinel = SentinelUrl.read(url)
    return url if sentinel is None else sentinel.for_celery()


def _redis_options(url: str, options: CeleryOptions, part: str) -> dict[str, Any]:
    """Return the transport options of a Redis: those of Sentinel, and the prefix of the keys."""
    if not _is_redis(url):
        return {}
    sentinel = SentinelUrl.read(url)
    prefix = {"global_keyprefix": f"{options.key_prefix}{part}:"} if options.key_prefix else {}
    if sentinel is None:
        return prefix
    return {
        **prefix,
        "master_name": sentinel.master,
        "sentinel_kwargs": sentinel_options(sentinel),
    }


def _transport(options: CeleryOptions) -> dict[str, Any]:
    if not _is_redis(options.broker_url):
        waits = ("read_timeout", "write_timeout") if options.publish_timeout else ()
        return {"confirm_publish": True, **dict.fromkeys(waits, options.publish_timeout)}
    return {
        **_redis_options(options.broker_url, options, "broker"),
        "visibility_timeout": options.visibility_timeout,
        # a dead worker's messages come back seconds after the timeout, not minutes
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # a worker that dies during the search blocks that of others at most this long
        "unacked_mutex_expire": 10,
        "priority_steps": list(_STEPS),
        "socket_timeout": options.publish_timeout or 30,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": False,
    }


logger = structlog.get_logger(__name__)

EXECUTE_TASK = "celeriac.tasks.execution.run"
"""The Celery task that runs an attempt; registered in `celeriac.worker.tasks`."""


class CeleryTaskQueue:
    """Publishes through the app's producer pool. Safe to share between threads.

    Nothing is retried here. A failed publication may have been sent: the claim ignores duplicates,
    and the keeper sends lost messages again.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._priorities = _STEPS[::-1] if _is_redis(app.conf.broker_url) else _STEPS

    def send(self, messages: Sequence[QueuedMessage]) -> None:
        """Publish all `messages`, in one round trip on Redis; see `TaskQueue.send`."""
        with (
            broker_errors(self._app),
            producer_of(self._app) as producer,
            producer.batch() if len(messages) > 1 else nullcontext(),
        ):
            for queued in messages:
                self._app.send_task(
                    EXECUTE_TASK,
                    args=(str(queued.message.execution_id), queued.message.attempt),
                    task_id=queued.message.celery_task_id,
                    queue=queued.queue,
                    priority=self._priorities[queued.priority],
                    ignore_result=True,
                    retry=False,
                    producer=producer,
                )

    def depth(self, queue: str) -> int:
        """Return the number of messages in `queue`, of all priorities."""
        with broker_errors(self._app), self._app.connection_or_acquire() as connection:
            return _depth(connection, [queue])

    def depths(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Return the number of messages in each queue; raises BrokerUnavailableError."""
        with broker_errors(self._app), self._app.connection_or_acquire() as connection:
            return {each: _depth(connection, [each]) for each in queues}

    def waiting_tasks(self, queues: Sequence[str]) -> PlainWaiting:
        """Return the plain tasks that wait in `queues`, as far as they are looked at.

        Raises BrokerUnavailableError, and UnavailableError for a broker that does not show them.
        """
        with broker_errors(self._app), self._app.connection_or_acquire() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            with connection.channel() as channel:
                if not is_redis(channel):
                    raise UnavailableError(_NOT_SHOWN)
                found, complete = count_tasks(channel, queues)
        tasks = [
            WaitingTasks(queue, name or OTHER, count)
            for queue, names in found.items()
            for name, count in names.items()
            if is_plain(name)
        ]
        tasks.sort(key=lambda each: (-each.count, each.queue, each.name))
        return PlainWaiting(
            count=sum(each.count for each in tasks),
            capped=not complete,
            tasks=tasks[:MOST_LISTED],
        )


_NOT_SHOWN = (
    "RabbitMQ does not show of which tasks the messages in its queues are: plain tasks that wait "
    "are not counted. `broker` has the messages of each queue."
)


def broker_server(app: Celery) -> BrokerServer | None:
    """Return what the broker says of itself over AMQP; None for Redis.

    Raises BrokerUnavailableError.
    """
    if _is_redis(app.conf.broker_url):
        return None
    with broker_errors(app), app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        said = connection.connection.server_properties
    return BrokerServer(str(said.get("product")), str(said.get("version")))


def waiting_messages(app: Celery, queues: Sequence[str]) -> int:
    """Return the number of messages in `queues`, over a new connection.

    Raises BrokerUnavailableError.
    """
    with broker_errors(app), app.connection_for_read() as connection:
        return _depth(connection, queues)


def _depth(connection: Connection, queues: Sequence[str]) -> int:
    # A connection that failed before has no channels until it is made again.
    connection.ensure_connection(max_retries=1, interval_start=0)
    total = 0
    for queue in queues:
        with connection.channel() as channel:  # RabbitMQ closes it if the queue does not exist
            try:
                total += int(channel.queue_declare(queue, passive=True).message_count)
            except ChannelError:
                continue  # no queue: nothing was sent, or Redis has no message of it
    return total
