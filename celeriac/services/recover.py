"""Recover: bring back what was lost, by workers or by the broker."""

import structlog

from celeriac.db import queues, transitions
from celeriac.db.engine import Database
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.services.ports import LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_CRASH_DELAY = 1.0
"""Seconds until the first retry after a lost worker; doubled with every further crash."""


class Recover:
    """The keeper's two rescues; any number of keepers may run them at once."""

    def __init__(self, database: Database, queue: TaskQueue, live: LiveEvents) -> None:
        """Look after the executions of `database` and the messages of `queue`."""
        self._database = database
        self._queue = queue
        self._live = live

    def lost_workers(self, limit: int) -> int:
        """Take executions with expired leases from their workers; return how many."""
        with self._database.statement() as connection:
            rescued = transitions.rescue_expired(connection, limit=limit, base_delay=_CRASH_DELAY)
        for item in rescued:
            logger.error(
                "execution.worker_lost",
                execution_id=item.execution_id,
                worker=item.worker,
                attempt=item.attempt,
                crash_count=item.crash_count,
                status=item.status,
            )
        self._live.changed([item.execution_id for item in rescued])
        return len(rescued)

    def lost_messages(self, *, older_than: float, limit: int) -> int:
        """Put back to `pending` what is queued although the broker has no message for it.

        A queue of the broker that holds fewer messages than there are rows waiting in it for over
        `older_than` seconds has lost some. Which ones can't be told, so all of those rows are sent
        again: a double costs one dropped message. Returns how many rows were put back.
        """
        with self._database.statement() as connection:
            waiting = queues.waiting(connection, older_than=older_than)
        total = 0
        for name, rows in waiting.items():
            if not self._has_lost(name, rows):
                continue
            with self._database.statement() as connection:
                ids = transitions.resend(connection, name, older_than=older_than, limit=limit)
            logger.warning("queue.messages_lost", queue=name, resent=len(ids))
            self._live.changed(ids)
            total += len(ids)
        return total

    def _has_lost(self, queue: str, rows: int) -> bool:
        try:
            return self._queue.depth(queue) < rows
        except BrokerUnavailableError:
            return False  # nothing can be said, and nothing could be sent
