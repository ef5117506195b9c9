"""The notebook: carries what agents tell to the database, in batches and in order."""

import threading

import structlog

from celeriac.db import leases
from celeriac.db.engine import Database, refuses
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
            taken = [(attempt, attempt.take_notes()) for attempt in attempts.values()]
            pages = [(attempt, notes) for attempt, notes in taken if notes]
            if pages:
                self._store(pages)

    def last_page(self, attempt: Attempt) -> Notes | None:
        """Return the notes of an attempt that has ended, once all earlier ones are stored.

        None where it has none: the common case costs nothing.
        """
        if not attempt.told:
            return None
        with self._writing:
            return attempt.take_notes()

    def _store(self, pages: list[tuple[Attempt, Notes]]) -> None:
        try:
            with self._database.statement() as connection:
                stored = leases.record(connection, [notes for _, notes in pages])
        except DatabaseUnavailableError as error:
            logger.warning("notebook.database_unavailable", code=error.code, error=error.message)
            for attempt, notes in pages:
                attempt.give_back(notes)
            return
        except Exception as error:
            logger.exception("notebook.refused", pages=len(pages))
            if len(pages) > 1:
                # One page that the database refuses must not cost the others.
                for page in pages:
                    self._store([page])
            elif not refuses(error):
                # It isn't the page's fault: the database may accept it later.
                for attempt, notes in pages:
                    attempt.give_back(notes)
            return
        for attempt, _ in pages:
            if attempt.lease.execution_id not in stored:
                attempt.stop(StopReason.LEASE_LOST)
        self._live.changed(list(stored))
