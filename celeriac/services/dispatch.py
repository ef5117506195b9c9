"""Dispatch: the one door to the broker.

A row is marked `queued` and committed before its message is sent. So a message never meets a row
that is not ready for it, and whatever gets lost between the two is a `queued` row without a
message, which the keeper finds and sends again (docs/adr/0002).
"""

import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from celeriac.db import transitions
from celeriac.db.engine import Database
from celeriac.db.transitions import Sendable
from celeriac.domain.errors import BrokerUnavailableError, DatabaseUnavailableError
from celeriac.services.ports import Envelope, LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_BROKER_PAUSE = 2.0
"""Seconds without sending after the broker failed, so that callers don't queue up behind it."""


class Dispatch:
    """Sends what is due. Safe to share between threads."""

    def __init__(self, database: Database, queue: TaskQueue, live: LiveEvents) -> None:
        """Mark rows in `database`, publish to `queue`, tell `live`."""
        self._database = database
        self._queue = queue
        self._live = live
        self._paused_until = 0.0

    def now(self, ids: Sequence[UUID]) -> list[Sendable]:
        """Send those of `ids` that are due; return what was sent.

        Never raises for an unreachable server: the rows stay, or go back to, `pending` and the
        keeper sends them later.
        """
        if self._paused:
            return []
        try:
            with self._database.statement() as connection:
                sendable = transitions.queue(connection, ids)
        except DatabaseUnavailableError as error:
            logger.warning("dispatch.database_unavailable", error=error.message)
            return []
        return self._send(sendable)

    def due(self, limit: int) -> int:
        """Send up to `limit` due executions, the urgent first; return how many were sent.

        Raises DatabaseUnavailableError.
        """
        if self._paused:
            return 0
        with self._database.statement() as connection:
            sendable = transitions.queue_due(connection, limit)
        return len(self._send(sendable))

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _send(self, sendable: list[Sendable]) -> list[Sendable]:
        if not sendable:
            return []
        try:
            self._queue.send([_envelope(item) for item in sendable])
        except BrokerUnavailableError as error:
            self._paused_until = time.monotonic() + _BROKER_PAUSE
            self._take_back(sendable, error)
            return []
        self._live.changed([item.message.execution_id for item in sendable])
        for item in sendable:
            logger.info(
                "execution.queued",
                execution_id=item.message.execution_id,
                celery_task_id=item.celery_task_id,
                queue=item.queue,
            )
        return sendable

    def _take_back(self, sendable: list[Sendable], error: BrokerUnavailableError) -> None:
        logger.warning("dispatch.broker_unavailable", error=error.message, count=len(sendable))
        try:
            with self._database.statement() as connection:
                transitions.unqueue(
                    connection,
                    [item.celery_task_id for item in sendable],
                    delay=_BROKER_PAUSE,
                    reason="broker_unavailable",
                )
        except DatabaseUnavailableError:
            # still `queued`: the keeper finds that no message answers for them
            logger.warning("dispatch.not_taken_back", count=len(sendable))


def _envelope(item: Sendable) -> Envelope:
    return Envelope(item.message, item.celery_task_id, item.queue, item.priority)
