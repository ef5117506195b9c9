"""Dispatch: the one door to the broker.

The broker holds a short window of messages per queue; what doesn't fit stays `pending`, in
PostgreSQL, which knows whose turn it is. A worker that ends an execution takes the next pending one
itself, so the window only has to keep idle slots busy (docs/adr/0002).

A row is `queued` and committed before its message is sent. So a message never meets a row that is
not ready for it, and whatever gets lost between the two is a `queued` row without a message, which
the keeper finds and sends again.
"""

import threading
import time
from collections.abc import Mapping
from uuid import UUID

import structlog

from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.db.executions.lifecycle import QueuedMessage
from celeriac.domain.errors import BrokerUnavailableError, DatabaseUnavailableError
from celeriac.domain.executions.model import Cause, Message
from celeriac.logs import Step
from celeriac.services.ports import Envelope, LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_BROKER_PAUSE = 2.0
"""Seconds without sending after the broker failed, so that callers don't queue up behind it."""

_SMALLEST_WINDOW = 16
_SLOTS_KNOWN_FOR = 2.0
_WORKER_SEEN_WITHIN = 30.0


class Dispatch:
    """Sends what is due. Safe to share between threads."""

    def __init__(self, database: Database, queue: TaskQueue, live: LiveEvents) -> None:
        """Mark rows in `database`, publish to `queue`, tell `live`."""
        self._database = database
        self._queue = queue
        self._live = live
        self._paused_until = 0.0
        self._slots: Mapping[str | None, int] = {}
        self._slots_until = 0.0
        self._counting = threading.Lock()

    def window(self, queue: str) -> int:
        """Return how many messages `queue` may have out now: the slots of its live workers.

        At least 16, for the workers that are just starting; 0 while the broker is given a rest.
        Reads the workers' rows every two seconds at most; raises DatabaseUnavailableError.
        """
        if self._paused:
            return 0
        slots = self._known_slots()
        return max(_SMALLEST_WINDOW, slots.get(queue, 0) + slots.get(None, 0))

    def _known_slots(self) -> Mapping[str | None, int]:
        if time.monotonic() >= self._slots_until and self._counting.acquire(blocking=False):
            try:
                with self._database.statement() as connection:
                    self._slots = workers.slots(connection, within_seconds=_WORKER_SEEN_WITHIN)
                self._slots_until = time.monotonic() + _SLOTS_KNOWN_FOR
            finally:
                self._counting.release()
        return self._slots

    def send_new(
        self, execution_id: UUID, celery_task_id: str, queue: str, priority: int, cause: Cause
    ) -> bool:
        """Send a new execution that was stored as `queued`; return whether it is out.

        Never raises for an unreachable server: the row goes back to `pending`, or stays `queued`,
        and the keeper sends it later. Nobody is told: nobody can watch what has no name yet.
        """
        born = QueuedMessage(Message(execution_id, 0), celery_task_id, queue, priority, cause)
        return bool(self._send([born]))

    def send_due(self) -> int:
        """Fill the windows with what is due, the urgent first; return how many were sent.

        Raises DatabaseUnavailableError.
        """
        if self._paused:
            return 0
        slots = self._known_slots()
        anywhere = slots.get(None, 0)
        windows = {queue: count + anywhere for queue, count in slots.items() if queue is not None}
        with self._database.statement() as connection:
            sendable = lifecycle.queue_due(
                connection, windows, smallest=max(_SMALLEST_WINDOW, anywhere)
            )
        sent = self._send(sendable)
        self._live.changed([item.message.execution_id for item in sent])
        return len(sent)

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _send(self, sendable: list[QueuedMessage]) -> list[QueuedMessage]:
        if not sendable:
            return []
        try:
            self._queue.send([_envelope(item) for item in sendable])
        except BrokerUnavailableError as error:
            self._paused_until = time.monotonic() + _BROKER_PAUSE
            self._take_back(sendable, error)
            return []
        for item in sendable:
            logger.info(
                Step.EXECUTION_QUEUED,
                **item.cause.ids(),
                execution_id=item.message.execution_id,
                celery_task_id=item.celery_task_id,
                queue=item.queue,
            )
        return sendable

    def _take_back(self, sendable: list[QueuedMessage], error: BrokerUnavailableError) -> None:
        logger.warning("dispatch.broker_unavailable", error=error.message, count=len(sendable))
        try:
            with self._database.statement() as connection:
                lifecycle.unqueue(
                    connection,
                    [item.celery_task_id for item in sendable],
                    delay=_BROKER_PAUSE,
                    reason="broker_unavailable",
                )
        except DatabaseUnavailableError:
            # still `queued`: the keeper finds that no message answers for them
            logger.warning("dispatch.not_taken_back", count=len(sendable))


def _envelope(item: QueuedMessage) -> Envelope:
    return Envelope(item.message, item.celery_task_id, item.queue, item.priority)
