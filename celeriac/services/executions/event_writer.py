"""The event_writer: carries what agents tell to the database, in batches and in order."""

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

_APART_SECONDS = 0.1
"""How long a page that may have to wait holds up the others."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0


class EventWriter:
    """Stores the notes of all running attempts of this process. Safe to share between threads."""

    def __init__(self, database: Database, active: AttemptRegistry, live: LiveEvents) -> None:
        """Store into `database`; tell `live` what has changed."""
        self._database = database
        self._active = active
        self._live = live
        # One writing at a time: the notes of an attempt must be stored in the order they were made.
        self._writing = threading.Lock()
        # Attempts whose pages wait for rows that others hold, in the order in which they are tried.
        self._apart: dict[UUID, None] = {}
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._paused_until = 0.0
        self._failed = False

    def flush(self) -> None:
        """Store all notes there are; what can't be stored now stays for the next time.

        After an error that is neither a refusal nor an outage nothing is tried for a while.
        """
        with self._writing:
            if time.monotonic() < self._paused_until:
                return
            self._failed = False
            attempts = {a.lease.execution_id: a for a in self._active.all() if a.told}
            for key in self._apart.keys() - attempts.keys():
                del self._apart[key]
            pages = [
                (attempt, batch)
                for key, attempt in attempts.items()
                if key not in self._apart and (batch := attempt.next_batch()) is not None
            ]
            waiting = list(self._apart)
            if pages:
                self._store(pages)
            if waiting:
                self._retry_apart(attempts)
            if not self._failed:
                self._backoff.succeeded()

    def last_page(self, attempt: Attempt) -> Sequence[PendingWrites]:
        """Return the batches of an attempt that has ended which are not known to be stored.

        One that told nothing, the common case, costs nothing. A batch that is being stored at this
        moment is among them: its number keeps it from being stored twice, and an end must not wait
        for what others are waiting for.
        """
        return attempt.last_batches() if attempt.told else ()

    def _retry_apart(self, attempts: Mapping[UUID, Attempt]) -> None:
        """Try what was set apart, each by itself, up to the first one that still has to wait."""
        for key in list(self._apart):
            batch = attempts[key].next_batch()
            if batch is not None:
                self._store([(attempts[key], batch)], apart=True)
                if key in self._apart:  # another one is the first to be tried next time
                    self._apart[key] = self._apart.pop(key)
                    return
            self._apart.pop(key, None)

    def _store(
        self, pages: Sequence[tuple[Attempt, PendingWrites]], *, apart: bool = False
    ) -> None:
        try:
            stored = self._record([batch for _, batch in pages], apart=apart)
        except DatabaseBusyError as error:
            self._set_apart(pages, error)
            return
        except DatabaseUnavailableError as error:
            logger.warning(
                "event_writer.database_unavailable", code=error.code, error=error.message
            )
            return
        except Exception as error:  # noqa: BLE001 - drivers raise anything
            refused = refuses(error)
            if refused:
                logger.error("event_writer.refused", pages=len(pages), error=first_line(error))  # noqa: TRY400 - it says all
            else:
                self._pause(error, len(pages))
            if len(pages) > 1:
                # One page that the database refuses must not cost the others.
                for page in pages:
                    self._store([page])
            elif refused:
                self._keep_bill(*pages[0])
            return
        for attempt, _ in pages:
            self._apart.pop(attempt.lease.execution_id, None)
            if attempt.lease.execution_id in stored:
                attempt.batch_stored()
            else:
                attempt.stop(StopReason.LEASE_LOST)
        self._live.changed(list(stored))

    def _pause(self, error: Exception, pages: int) -> None:
        """Wait before anything is stored again, after an error that may pass."""
        if self._failed:
            return  # once for all that is tried in a round
        self._failed = True
        was_failing = self._backoff.failing
        seconds = self._backoff.failed()
        self._paused_until = time.monotonic() + seconds
        if not was_failing:
            kind, reason = type(error).__name__, first_line(error)
            logger.error("event_writer.failed", pages=pages, kind=kind, error=reason)

    def _record(self, batches: Sequence[PendingWrites], *, apart: bool) -> set[UUID]:
        if not apart:
            with self._database.statement() as connection:
                return leases.store_batch(connection, batches)
        with self._database.transaction() as connection:
            leases.wait_briefly(connection, _APART_SECONDS)
            return leases.store_batch(connection, batches)

    def _set_apart(
        self, pages: Sequence[tuple[Attempt, PendingWrites]], error: DatabaseBusyError
    ) -> None:
        """Store pages one by one where a row that some of them need is held by others.

        Those that have to wait are left out of what is stored together from now on.
        """
        for attempt, batch in pages:
            key = attempt.lease.execution_id
            if key not in self._apart:
                self._apart[key] = None
                if len(pages) > 1:
                    self._store([(attempt, batch)], apart=True)
                if key in self._apart:
                    logger.warning(
                        "event_writer.database_busy", execution_id=key, error=error.message
                    )

    def _keep_bill(self, attempt: Attempt, refused: PendingWrites) -> None:
        """Store of a batch that the database refuses the model calls alone; the rest is lost."""
        bill = bill_of(refused)
        attempt.batch_refused(bill)
        if bill is not None:
            self._store([(attempt, bill)])


def bill_of(refused: PendingWrites) -> PendingWrites | None:
    """Return the batch without its events, where that leaves model calls that may be stored."""
    if not refused.calls or not (refused.events or refused.progress):
        return None
    return replace(refused, events=[], progress=None)
