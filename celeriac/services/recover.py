"""Recover: bring back what was lost, by workers or by the broker."""

import time

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, queues, transitions
from celeriac.db.engine import Database
from celeriac.db.queues import Waiting
from celeriac.db.transitions import Rescued
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.domain.states import Status
from celeriac.logs import Step
from celeriac.services.ports import LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_CRASH_DELAY = 1.0
"""Seconds until the first retry after a lost worker; doubled with every further crash."""


class Recover:
    """The keeper's two rescues; any number of keepers may run them at once.

    One of these belongs to one thread: it remembers what it saw at its last look.
    """

    def __init__(
        self, database: Database, queue: TaskQueue, live: LiveEvents, *, grace_seconds: float
    ) -> None:
        """Look after the executions of `database` and the messages of `queue`.

        Workers have `grace_seconds` to renew their leases after a start of the database.
        """
        self._database = database
        self._queue = queue
        self._live = live
        self._grace_seconds = grace_seconds
        self._short_since: dict[str, float] = {}

    def lost_workers(self, limit: int) -> int:
        """Take executions with expired leases from their workers; return how many."""
        with self._database.transaction() as connection:
            rescued = transitions.rescue_expired(
                connection, limit=limit, base_delay=_CRASH_DELAY, grace=self._grace_seconds
            )
            for item in rescued:
                if item.status is Status.FAILED:
                    _audit(connection, item)
        for item in rescued:
            logger.error(
                Step.EXECUTION_WORKER_LOST,
                **item.cause.ids(),
                execution_id=item.execution_id,
                worker=item.worker,
                attempt=item.attempt,
                crash_count=item.crash_count,
                status=item.status,
            )
        self._live.changed([item.execution_id for item in rescued])
        return len(rescued)

    def waited_enough(self, limit: int) -> int:
        """Let parked executions go on whose time of waiting is over; return how many."""
        with self._database.statement() as connection:
            ids = transitions.resume_due(connection, limit=limit)
        for execution_id in ids:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
        self._live.changed(ids)
        return len(ids)

    def lost_messages(self, *, older_than: float, limit: int) -> int:
        """Put back to `pending` what is queued although the broker has no message for it.

        A queue has lost messages if it holds fewer than there are rows waiting in it for over
        `older_than` seconds, or if for that long it held fewer, at every look, than there are
        queued rows: what is on its way to or from the broker is missing for a moment only. Which
        ones can't be told, so all of those rows are sent again: a double costs one dropped message.
        Returns how many rows were put back.
        """
        with self._database.statement() as connection:
            waiting = queues.waiting(connection, older_than=older_than)
        self._short_since = {name: at for name, at in self._short_since.items() if name in waiting}
        total = 0
        for name, rows in waiting.items():
            if not self._has_lost(name, rows, older_than):
                continue
            with self._database.statement() as connection:
                ids = transitions.resend(connection, name, older_than=older_than, limit=limit)
            logger.warning("queue.messages_lost", queue=name, resent=len(ids))
            self._live.changed(ids)
            total += len(ids)
        return total

    def _has_lost(self, queue: str, rows: Waiting, older_than: float) -> bool:
        try:
            depth = self._queue.depth(queue)
        except BrokerUnavailableError:
            return False  # nothing can be said, and nothing could be sent
        if depth >= rows.all:
            self._short_since.pop(queue, None)
            return False
        since = self._short_since.setdefault(queue, time.monotonic())
        return depth < rows.old or time.monotonic() - since >= older_than


def _audit(connection: Connection, lost: Rescued) -> None:
    audit.failed(
        connection,
        lost.execution_id,
        actor="keeper",
        request_id=lost.cause.request_id,
        details={"code": "worker_lost", "message": lost.message, "attempt": lost.attempt},
    )
