"""The event writer: stores events and usage of the running attempts, in batches and in order."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db.engine import Database, first_line, refuses
from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.errors import DatabaseBusyError, DatabaseUnavailableError
from celeriac.kit.backoff import Backoff
from celeriac.services.executions.attempt import Attempt, AttemptRegistry, StopReason
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

_DEFERRED_SECONDS = 0.1
"""How long a deferred batch may wait for a lock, and so delay the others."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0

_Batches = Sequence[tuple[Attempt, PendingWrites]]


class EventWriter:
    """Stores the pending writes of all running attempts. Safe to share between threads."""

    def __init__(self, database: Database, attempts: AttemptRegistry, live: LiveEvents) -> None:
        self._database = database
        self._attempts = attempts
        self._live = live
        # One flush at a time: the batches of an attempt must be stored in their order.
        self._writing = threading.Lock()
        # Attempts whose batches wait for locked rows, in the order in which they are tried.
        self._deferred: dict[UUID, None] = {}
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._paused_until = 0.0
        self._failed = False

    def flush(self) -> None:
        """Store all pending writes; what can't be stored now is kept for the next flush.

        After an error that is neither a refusal nor an outage, flushing pauses for a while.
        """
        with self._writing:
            if time.monotonic() < self._paused_until:
                return
            self._failed = False
            attempts = {a.lease.execution_id: a for a in self._attempts.all() if a.has_writes}
            for key in self._deferred.keys() - attempts.keys():
                del self._deferred[key]
            batches = [
                (attempt, batch)
                for key, attempt in attempts.items()
                if key not in self._deferred and (batch := attempt.next_batch()) is not None
            ]
            deferred = list(self._deferred)
            if batches:
                self._store(batches)
            if deferred:
                self._retry_deferred(attempts)
            if not self._failed:
                self._backoff.succeeded()

    def _retry_deferred(self, attempts: Mapping[UUID, Attempt]) -> None:
        """Try deferred batches one by one, up to the first that still has to wait."""
        for key in list(self._deferred):
            batch = attempts[key].next_batch()
            if batch is not None:
                self._store([(attempts[key], batch)], deferred=True)
                if key in self._deferred:  # the next flush begins with another one
                    self._deferred[key] = self._deferred.pop(key)
                    return
            self._deferred.pop(key, None)

    def _store(self, batches: _Batches, *, deferred: bool = False) -> None:
        try:
            stored = self._store_batches([batch for _, batch in batches], deferred=deferred)
        except DatabaseBusyError as error:
            self._defer(batches, error)
            return
        except DatabaseUnavailableError as error:
            logger.warning(
                "event_writer.database_unavailable", code=error.code, error=error.message
            )
            return
        except Exception as error:  # noqa: BLE001 - drivers raise anything
            refused = refuses(error)
            if refused:
                logger.error("event_writer.refused", pages=len(batches), error=first_line(error))  # noqa: TRY400 - the trace holds the values
            else:
                self._pause(error, len(batches))
            if len(batches) > 1:
                # A batch that the database refuses must not cost the others.
                for batch in batches:
                    self._store([batch])
            elif refused:
                self._store_calls_only(*batches[0])
            return
        for attempt, _ in batches:
            self._deferred.pop(attempt.lease.execution_id, None)
            if attempt.lease.execution_id in stored:
                attempt.batch_stored()
            else:
                attempt.stop(StopReason.LEASE_LOST)
        self._live.changed(list(stored))

    def _pause(self, error: Exception, batches: int) -> None:
        """Pause after an error that may pass; once in a flush."""
        if self._failed:
            return
        self._failed = True
        was_failing = self._backoff.failing
        self._paused_until = time.monotonic() + self._backoff.failed()
        if not was_failing:
            kind, reason = type(error).__name__, first_line(error)
            logger.error("event_writer.failed", pages=batches, kind=kind, error=reason)

    def _store_batches(self, batches: Sequence[PendingWrites], *, deferred: bool) -> set[UUID]:
        if not deferred:
            with self._database.autocommit() as connection:
                return leases.store_batch(connection, batches)
        with self._database.transaction() as connection:
            leases.wait_briefly(connection, _DEFERRED_SECONDS)
            return leases.store_batch(connection, batches)

    def _defer(self, batches: _Batches, error: DatabaseBusyError) -> None:
        """Store batches one by one after a row that some of them need was locked.

        Those that have to wait are stored apart from the others from now on.
        """
        for attempt, batch in batches:
            key = attempt.lease.execution_id
            if key not in self._deferred:
                self._deferred[key] = None
                if len(batches) > 1:
                    self._store([(attempt, batch)], deferred=True)
                if key in self._deferred:
                    logger.warning(
                        "event_writer.database_busy", execution_id=key, error=error.message
                    )

    def _store_calls_only(self, attempt: Attempt, refused: PendingWrites) -> None:
        """Store only the model calls of a batch that the database refuses."""
        calls = calls_of(refused)
        attempt.batch_refused(calls)
        if calls is not None:
            self._store([(attempt, calls)])


def calls_of(refused: PendingWrites) -> PendingWrites | None:
    """Return the batch with its model calls only, or None if that is not less than before."""
    if not refused.calls or not (refused.events or refused.progress):
        return None
    return replace(refused, events=[], progress=None)
