"""The task queue on Celery: messages that hold two values and nothing else."""

from collections.abc import Sequence
from contextlib import nullcontext

import structlog
from amqp.exceptions import ChannelError
from celery import Celery
from kombu import Connection

from celeriac.adapters.celery_app import BROKER_FAILURES, producer_of
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.kit.urls import without_password
from celeriac.services.ports import Envelope

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
