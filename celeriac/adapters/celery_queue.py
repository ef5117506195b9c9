"""Celery as the task queue: the application, sending executions, and the status of plain tasks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from amqp.exceptions import AMQPError, ChannelError
from celery import Celery
from kombu import Connection, Producer, Queue
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError, ResponseError

from celeriac.adapters.compression import UncompressedAMQP, unpack_nothing
from celeriac.adapters.redis_transport import use_for_redis
from celeriac.domain.errors import BrokerUnavailableError, ResultUnreadableError, UnavailableError
from celeriac.domain.executions.states import CeleryState
from celeriac.kit.json_types import dumps
from celeriac.kit.outbound import without_password
from celeriac.services.operations.celery_tasks import CeleryTaskState, PlainTask
from celeriac.services.ports import Envelope

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
    app = Celery("celeriac", amqp=UncompressedAMQP, loader="celeriac.worker.modules:ModuleLoader")
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


logger = structlog.get_logger(__name__)

EXECUTE_TASK = "celeriac.tasks.execution.run"
"""The Celery task that runs an attempt; registered in `celeriac.worker.tasks`."""

_REDIS_STEPS = (9, 6, 3, 0)
"""Redis: priority steps, 0 is taken first (FACTS). Index: our priority, low to critical."""

_AMQP_PRIORITIES = (0, 3, 6, 9)
"""RabbitMQ: the greater number is taken first."""


class CeleryTaskQueue:
    """Publishes through the app's producer pool. Safe to share between threads.

    Nothing is retried here: a publication that failed may have happened (FACTS), and it is the
    claim that makes doubles harmless and the keeper that makes losses good.
    """

    def __init__(self, app: Celery) -> None:
        """Publish with the connection settings of `app`."""
        self._app = app
        self._address = without_password(app.conf.broker_url)
        redis = app.conf.broker_url.startswith(("redis", "rediss", "sentinel"))
        self._priorities = _REDIS_STEPS if redis else _AMQP_PRIORITIES

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Publish all `envelopes`, on Redis in one round trip; see `TaskQueue.send`."""
        try:
            with (
                producer_of(self._app) as producer,
                producer.batch() if len(envelopes) > 1 else nullcontext(),
            ):
                for envelope in envelopes:
                    self._app.send_task(
                        EXECUTE_TASK,
                        args=(str(envelope.message.execution_id), envelope.message.attempt),
                        task_id=envelope.celery_task_id,
                        queue=envelope.queue,
                        priority=self._priorities[envelope.priority],
                        ignore_result=True,
                        retry=False,
                        producer=producer,
                    )
        except BROKER_FAILURES as error:
            raise self._unavailable(error) from error

    def depth(self, queue: str) -> int:
        """Return how many messages wait in `queue` over all its priorities."""
        try:
            with self._app.connection_or_acquire() as connection:
                return _depth(connection, [queue])
        except BROKER_FAILURES as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BrokerUnavailableError:
        return BrokerUnavailableError(f"The broker at {self._address} doesn't answer: {error}")


def waiting_messages(app: Celery, queues: Sequence[str]) -> int:
    """Return how many messages wait in `queues` together; over a connection of its own.

    Raises BrokerUnavailableError.
    """
    try:
        with app.connection_for_read() as connection:
            return _depth(connection, queues)
    except BROKER_FAILURES as error:
        address = without_password(app.conf.broker_url)
        raise BrokerUnavailableError(f"The broker at {address} doesn't answer: {error}") from error


def _depth(connection: Connection, queues: Sequence[str]) -> int:
    # A connection that could not be made before has no channels until it is made anew.
    connection.ensure_connection(max_retries=1, interval_start=0)
    total = 0
    for queue in queues:
        with connection.channel() as channel:  # RabbitMQ closes it where there is no such queue
            try:
                total += int(channel.queue_declare(queue, passive=True).message_count)
            except ChannelError:
                continue  # nothing was ever sent, or Redis holds no message of it
    return total


class CeleryPlainTasks:
    """Sends plain tasks and reads their results. Safe to share between threads.

    Sending with a result backend makes Celery listen for the result, which nobody here waits for:
    it would keep a subscription per task, and block while Redis is away. So the app that sends has
    none; workers store results all the same.
    """

    def __init__(self, options: CeleryOptions) -> None:
        """Use the broker and the result backend of `options`; nothing is connected yet."""
        self._sender = create_app(replace(options, result_backend="disabled"))
        self._results = create_app(options)

    def send(self, task: PlainTask, task_id: str) -> None:
        """Publish `task`; raises BrokerUnavailableError."""
        try:
            with producer_of(self._sender) as producer:
                self._sender.send_task(
                    task.name,
                    args=list(task.args),
                    kwargs=dict(task.kwargs or {}),
                    task_id=task_id,
                    queue=task.queue,
                    retry=False,
                    producer=producer,
                )
        except BROKER_FAILURES as error:
            address = without_password(self._sender.conf.broker_url)
            raise BrokerUnavailableError(
                f"The broker at {address} doesn't answer; send the request again later."
            ) from error

    def state(self, task_id: str) -> CeleryTaskState:
        """Return what the result backend has; raises UnavailableError, ResultUnreadableError."""
        try:
            meta = self._results.backend.get_task_meta(task_id)
            return _state(task_id, meta)
        except (OperationalError, RedisError, OSError) as error:
            if not _is_of_another_type(error):
                raise UnavailableError(
                    "The result backend doesn't answer; ask again later."
                ) from error
            raise ResultUnreadableError(task_id) from error
        except Exception as error:  # anything may lie under a key, and Celery trusts it
            raise ResultUnreadableError(task_id) from error


def _is_of_another_type(error: Exception) -> bool:
    """Whether Redis says that the key holds no text but, say, a list."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _state(task_id: str, meta: Mapping[str, Any]) -> CeleryTaskState:
    """Return what `meta` says; raises any error for what is no entry of Celery's."""
    state = CeleryState.read(meta["status"])
    state_of = CeleryTaskState(
        task_id=task_id,
        state=state,
        name=_text(meta.get("name")),
        worker=_text(meta.get("worker")),
        retries=int(meta.get("retries") or 0),
        completed_at=_time(meta.get("date_done")),
        traceback=_text(meta.get("traceback")),
        **_outcome(state, meta.get("result")),
    )
    dumps(asdict(state_of))  # what can't be encoded can't be told
    return state_of


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"expected a text, got a {type(value).__name__}")


def _time(value: Any) -> datetime | None:
    if not value:
        return None
    time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _outcome(state: CeleryState, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseException):
        return {"error_type": type(value).__name__, "error_message": str(value)}
    return {"result": value} if state is CeleryState.SUCCESS else {}
