"""The task queue on Celery: messages that hold two values and nothing else."""

from collections.abc import Sequence

import structlog
from amqp.exceptions import ChannelError
from celery import Celery
from kombu.exceptions import OperationalError

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
        """Publish all `envelopes` over one connection; see `TaskQueue.send`."""
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
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
        except (OperationalError, OSError) as error:
            raise BrokerUnavailableError(
                f"The broker at {self._address} doesn't answer: {error}"
            ) from error

    def depth(self, queue: str) -> int:
        """Return how many messages wait in `queue` over all its priorities."""
        with self._app.connection_or_acquire() as connection:
            try:
                # A connection that could not be made before has no channels until it is made anew.
                connection.ensure_connection(max_retries=1, interval_start=0)
                with connection.channel() as channel:
                    return int(channel.queue_declare(queue, passive=True).message_count)
            except ChannelError:
                return 0  # no such queue: nothing was ever sent, or Redis holds no message of it
            except (OperationalError, OSError, *connection.connection_errors) as error:
                # a bare channel raises the transport's own errors: redis-py's are no OSErrors
                raise BrokerUnavailableError(
                    f"The broker at {self._address} doesn't answer: {error}"
                ) from error
