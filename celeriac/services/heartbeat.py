"""The heartbeat of one worker process: renews its leases and learns what must stop."""

from collections.abc import Sequence
from uuid import UUID

import structlog

from celeriac.db import leases, workers
from celeriac.db.engine import Database
from celeriac.db.workers import WorkerReport
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.active import ActiveAttempts
from celeriac.services.attempt import Attempt, StopReason

logger = structlog.get_logger(__name__)


class Heartbeat:
    """Keeps the leases of all running attempts, in one statement a beat.

    `database` must be its own: a beat that waits for a connection which others hold comes too late.
    Belongs to one thread.
    """

    def __init__(self, database: Database, active: ActiveAttempts, *, lease_seconds: float) -> None:
        """Renew for `lease_seconds` from now on at each beat."""
        self._database = database
        self._active = active
        self._lease_seconds = lease_seconds
        self._skipped: frozenset[UUID] = frozenset()

    def beat(self) -> None:
        """Renew every lease; stop what was cancelled and what is no longer ours.

        Without the database nothing is stopped: nobody can take a lease while it is away.
        """
        self._renew(self._active.all())

    def catch_up(self) -> None:
        """Renew the leases that the last beat had to skip, because others had locked their rows.

        A row that is locked again and again must be met in between: call this often.
        """
        if self._skipped:
            self._renew([a for a in self._active.all() if a.lease.execution_id in self._skipped])

    def _renew(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            self._skipped = frozenset()
            return
        asked = [attempt.lease for attempt in attempts]
        try:
            with self._database.statement() as connection:
                found = leases.renew(connection, asked, lease_seconds=self._lease_seconds)
        except DatabaseUnavailableError as error:
            logger.warning("heartbeat.database_unavailable", code=error.code, error=error.message)
            return
        self._skipped = found.skipped
        # Not by their executions: meanwhile the next attempt of one may have begun here.
        for attempt in attempts:
            if attempt.lease.execution_id not in found.held:
                attempt.stop(StopReason.LEASE_LOST)
            elif found.held[attempt.lease.execution_id]:
                attempt.stop(StopReason.CANCELLED)

    def report(self, report: WorkerReport) -> bool:
        """Store what the process says of itself; return whether that was possible now."""
        try:
            with self._database.statement() as connection:
                workers.report(connection, report)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_reported", code=error.code, error=error.message)
            return False
        return True

    def sign_off(self, worker_id: UUID) -> None:
        """Store that the process has ended in order, where that is possible now."""
        try:
            with self._database.statement() as connection:
                workers.stopped(connection, worker_id)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_signed_off", code=error.code, error=error.message)
