"""The notebook: carries what agents tell to the database, in batches and in order."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import structlog

from celeriac.db import leases
from celeriac.db.engine import Database
from celeriac.db.leases import Notes
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.active import ActiveAttempts
from celeriac.services.attempt import Attempt, StopReason
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)


class Notebook:
    """Stores the notes of all running attempts of this process. Safe to share between threads."""

    def __init__(self, database: Database, active: ActiveAttempts, live: LiveEvents) -> None:
        """Store into `database`; tell `live` what has changed."""
        self._database = database
        self._active = active
        self._live = live
        # One writing at a time: the notes of an attempt must be stored in the order they were made.
        self._writing = threading.Lock()

    def flush(self) -> None:
        """Store all notes there are; what can't be stored now stays for the next time."""
        with self._writing:
            attempts = {a.lease.execution_id: a for a in self._active.all() if a.told}
            pages = [
                (attempt, batch)
                for attempt in attempts.values()
                if (batch := attempt.next_batch()) is not None
            ]
            if pages:
                self._store(pages)

    def last_page(self, attempt: Attempt) -> Sequence[Notes]:
        """Return the batches of an attempt that has ended which are not known to be stored.

        One that told nothing, the common case, costs nothing.
        """
        if not attempt.told:
            return ()
        with self._writing:
            return attempt.last_batches()

    def _store(self, pages: Sequence[tuple[Attempt, Notes]]) -> None:
        try:
            with self._database.statement() as connection:
                stored = leases.record(connection, [batch for _, batch in pages])
        except DatabaseUnavailableError as error:
            logger.warning("notebook.database_unavailable", error=error.message)
            return
        except Exception:
            # One page that the database refuses must not cost the others.
            logger.exception("notebook.refused", pages=len(pages))
            for page in pages if len(pages) > 1 else []:
                self._store([page])
            if len(pages) == 1:
                self._keep_bill(*pages[0])
            return
        for attempt, _ in pages:
            if attempt.lease.execution_id in stored:
                attempt.batch_stored()
            else:
                attempt.stop(StopReason.LEASE_LOST)
        self._live.changed(list(stored))

    def _keep_bill(self, attempt: Attempt, refused: Notes) -> None:
        """Store of a batch that the database refuses the model calls alone; the rest is lost."""
        bill = bill_of(refused)
        attempt.batch_refused(bill)
        if bill is not None:
            self._store([(attempt, bill)])


def bill_of(refused: Notes) -> Notes | None:
    """Return the batch without its events, where that leaves model calls that may be stored."""
    if not refused.calls or not (refused.events or refused.progress):
        return None
    return replace(refused, events=[], progress=None)
