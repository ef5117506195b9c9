"""The heartbeat of one worker process: renews its leases and learns what must stop."""

import structlog

from celeriac.db import leases
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.active import ActiveAttempts
from celeriac.services.attempt import StopReason

logger = structlog.get_logger(__name__)


class Heartbeat:
    """Keeps the leases of all running attempts, in one statement a beat."""

    def __init__(self, database: Database, active: ActiveAttempts, *, lease_seconds: float) -> None:
        """Renew for `lease_seconds` from now on at each beat."""
        self._database = database
        self._active = active
        self._lease_seconds = lease_seconds

    def beat(self) -> None:
        """Renew every lease; stop what was cancelled and what is no longer ours.

        Without the database nothing is stopped: nobody can take a lease while it is away.
        """
        attempts = self._active.all()
        if not attempts:
            return
        held = [attempt.lease for attempt in attempts]
        try:
            with self._database.statement() as connection:
                kept = leases.renew(connection, held, lease_seconds=self._lease_seconds)
        except DatabaseUnavailableError as error:
            logger.warning("heartbeat.database_unavailable", error=error.message)
            return
        # Not by their executions: meanwhile the next attempt of one may have begun here.
        for attempt in attempts:
            if attempt.lease.execution_id not in kept:
                attempt.stop(StopReason.LEASE_LOST)
            elif kept[attempt.lease.execution_id]:
                attempt.stop(StopReason.CANCELLED)
