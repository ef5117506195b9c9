"""Celery's consumer, made to survive bad messages and to report its condition."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from amqp.exceptions import PreconditionFailed, RecoverableConnectionError
from celery import signals
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.consumer import maybe_shutdown
from kombu.exceptions import OperationalError

from celeriac.adapters.dropped import dropped_messages
from celeriac.kit.backoff import Backoff
from celeriac.kit.outbound import without_password
from celeriac.worker import control as control  # noqa: PLC0414 - registers its commands
from celeriac.worker.messages import fault_of, name_of
from celeriac.worker.status import ConsumerNames, ConsumerStatus
from celeriac.worker.unknown import UnknownTasks

logger = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0
_ANSWER_SECONDS = 15.0
"""Redis answers each request for messages within a second, even if there are none."""

_FIRST_RETRY = 0.5
_LONGEST_RETRY = 15.0


class Consumer(CeleryConsumer):
    """Drops invalid messages, leaves unknown tasks to other workers, and reports its condition."""

    class Blueprint(CeleryConsumer.Blueprint):
        """Celery's steps, with a gossip that survives bad messages.

        Without delayed delivery, which makes 28 queues in RabbitMQ and needs topic exchanges.
        """

        default_steps = (
            *(
                each
                for each in CeleryConsumer.Blueprint.default_steps
                if ":Gossip" not in each and ":DelayedDelivery" not in each
            ),
            "celeriac.worker.gossip:Gossip",
        )

    loop: Any
    """What Celery runs for as long as its connection lasts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._status: ConsumerStatus = self.app.celeriac.consumer
        self._unknown = UnknownTasks(self)
        self._ticked = 0.0
        self._away = False
        self._paused = False
        self._consume = self.loop
        self.loop = self._consume_until_closed

    def start(self) -> None:
        """Consume until the worker stops; an unexpected error shuts the worker down."""
        try:
            super().start()
        except Exception as error:
            self.app.celeriac.give_up(f"the consumer has ended: {type(error).__name__}: {error}")
            raise
        finally:
            self._status.stopped()

    def _consume_until_closed(self, *args: Any) -> None:
        """Run Celery's loop; raise RecoverableConnectionError if RabbitMQ closes its channel.

        It does so when a message is not acknowledged within the server's `consumer_timeout`. Celery
        would end the worker, which has only to connect again. Refused declarations of queues, which
        no new connection cures, come before the loop and end the worker.
        """
        try:
            self._consume(*args)
        except PreconditionFailed as error:
            raise RecoverableConnectionError(str(error)) from error

    def on_ready(self) -> None:
        """Update the status before Celery reports that the worker is ready."""
        self._tick()
        super().on_ready()

    def on_close(self) -> None:
        """Reset the state of the connection."""
        self._status.stopped()
        self._paused = False  # the next connection consumes all queues
        self._unknown.connection_lost()
        super().on_close()

    def register_with_event_loop(self, hub: Any) -> None:
        """Update the status every second, on the consumer's event loop."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_TICK_SECONDS, self._tick)

    def perform_pending_operations(self) -> None:
        """Update the status with transports that have no event loop."""
        super().perform_pending_operations()
        if not self.hub and time.monotonic() - self._ticked >= _TICK_SECONDS:
            self._tick()

    @property
    def free_slots(self) -> int:
        """The number of messages the pool could take; those held by a rate limit count as taken."""
        held = sum(len(bucket.contents) for bucket in list(self.task_buckets.values()) if bucket)
        return int(self.pool.num_processes) - len(state.reserved_requests) - held

    @property
    def open_queues(self) -> list[str]:
        """The queues that are consumed now."""
        if self._paused:
            return []
        return [name for name in self._queues() if name not in self._unknown.paused]

    def _queues(self) -> list[str]:
        return list(self.app.amqp.queues.consume_from)

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._follow_pause()
        self._status.dropped(dropped_messages.count)
        self._status.set_names(ConsumerNames(self._queues(), self._unknown.names))
        if self._takes_messages():
            self._status.consuming()

    def _follow_pause(self) -> None:
        """Stop consuming once the worker is paused, and begin again once it is resumed."""
        consumer = self.task_consumer
        if consumer is None or self._paused == self._status.paused:
            return
        self._paused = self._status.paused
        if self._paused:
            for name in self._queues():
                consumer.cancel_by_queue(name)
            return
        for name in self.open_queues:
            consumer.add_queue(self.app.amqp.queues.consume_from[name])
        consumer.consume()

    def _takes_messages(self) -> bool:
        if not self.connection or self.task_consumer is None or self._paused:
            return False
        answered = getattr(self.connection.transport, "answered_at", None)
        if answered is None or time.monotonic() - answered < _ANSWER_SECONDS:
            return True
        return self.free_slots <= 0  # no request is sent while all slots are busy

    def create_task_handler(self, *promise: Any) -> Callable[[Any], None]:
        """Return the handler of messages: Celery's own, for messages that Celery can handle."""
        handle = super().create_task_handler(*promise)
        errors = (*self.connection_errors, *self.channel_errors, OperationalError)
        # kombu lists KeyError among the errors of Redis, but bad messages raise it too
        broker_errors = tuple(error for error in errors if error is not KeyError)
        strategies, took, known = self.strategies, self._status.took, self._unknown.known

        def on_task_received(message: Any) -> None:
            took()
            try:
                name, fault = name_of(message)
                if name is not None and name not in strategies:
                    self._unknown.give_back(message, name, _queue_of(message))
                    return
                fault = fault or fault_of(message)
                if fault is not None:
                    self._drop(message, fault)
                    return
                known(_queue_of(message))
                handle(message)
            except broker_errors:
                raise
            except Exception as error:  # noqa: BLE001 - no message may end the consumer
                self._on_failure(message, error)

        return on_task_received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message that can't be decoded."""
        self._drop(message, f"it can't be decoded: {type(exc).__name__}: {exc}")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop a message that is no task."""
        del body
        self._drop(message, "it is no task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a task that Celery refuses."""
        del body
        self._drop(message, f"Celery refuses it: {type(exc).__name__}: {exc}")

    def _on_failure(self, message: Any, error: Exception) -> None:
        """Requeue a valid message that the pool did not accept; drop it the second time.

        The fault may be this worker's.
        """
        if message.acknowledged:
            logger.error("message.failed", exc_info=error)
        elif message.delivery_info.get("redelivered"):
            self._drop(message, f"it can't be run: {type(error).__name__}: {error}")
        else:
            logger.warning("message.requeued", error=f"{type(error).__name__}: {error}")
            message.reject_log_error(logger, self.connection_errors, requeue=True)

    def _drop(self, message: Any, reason: str) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        dropped_messages.record(
            reason, message.body, queue=_queue_of(message), task=headers.get("task")
        )
        if not getattr(message, "acknowledged", False):
            message.ack()
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, for as long as it takes, with growing pauses; log each change once.

        Celery's own method logs two lines for each try, and all workers try at the same moments.
        """
        if not self.app.conf.broker_connection_retry:
            return super().ensure_connected(conn)
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while True:
            maybe_shutdown()
            try:
                conn.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            except (*conn.recoverable_connection_errors, OperationalError) as error:
                if not self._away:
                    logger.warning(
                        "broker.unavailable",
                        address=without_password(conn.as_uri()),
                        error=str(error),
                    )
                self._away = True
                self._sleep(backoff.failed())
            else:
                break
        if self._away:
            logger.info("broker.back", address=without_password(conn.as_uri()))
        self._away = False
        self.first_connection_attempt = False
        return conn

    @staticmethod
    def _sleep(seconds: float) -> None:
        """Sleep until the time is up or the worker stops."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left, 0.2))


def _queue_of(message: Any) -> str:
    info = message.delivery_info
    return str(info.get("routing_key") or "") if isinstance(info, dict) else ""
