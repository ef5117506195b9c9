"""Finish: write how an attempt ended, once, and only while its lease is ours."""

from celeriac.db import audit, leases, transitions
from celeriac.db.engine import Database
from celeriac.db.leases import Notes
from celeriac.domain.execution import Claim
from celeriac.domain.outcome import Failed, Outcome
from celeriac.domain.states import Status
from celeriac.services.patience import patiently
from celeriac.services.ports import LiveEvents

_PATIENCE_SECONDS = 600.0
"""How long a result waits for the database. The lease can't be taken while the database is away."""


class Finish:
    """Ends attempts."""

    def __init__(self, database: Database, live: LiveEvents) -> None:
        """Write into `database`, tell `live`."""
        self._database = database
        self._live = live

    def __call__(self, claim: Claim, outcome: Outcome, notes: Notes | None) -> Status | None:
        """Store `outcome` and the last notes in one transaction; return the new status.

        None means that the lease was lost: nothing was written. Raises DatabaseUnavailableError
        after ten minutes without the database; the keeper then deals with the expired lease.
        """
        status = patiently(lambda: self._once(claim, outcome, notes), seconds=_PATIENCE_SECONDS)
        if status is not None:
            self._live.changed([claim.lease.execution_id])
        return status

    def _once(self, claim: Claim, outcome: Outcome, notes: Notes | None) -> Status | None:
        if not notes and not isinstance(outcome, Failed):
            with self._database.statement() as connection:
                return transitions.finish(connection, claim.lease, outcome)
        with self._database.transaction() as connection:
            if notes:
                leases.record(connection, [notes])
            status = transitions.finish(connection, claim.lease, outcome)
            if isinstance(outcome, Failed) and status is Status.FAILED:
                audit.failed(connection, claim, outcome.failure)
            return status
