"""Finish: write how an attempt ended, once, and only while its lease is ours."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from celeriac.db import audit, leases, transitions
from celeriac.db.engine import Database
from celeriac.db.leases import Notes
from celeriac.db.transitions import Finished, Turn
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.execution import Claim
from celeriac.domain.outcome import Failed, Failure, Outcome, Parked
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

    def __call__(
        self,
        claim: Claim,
        outcome: Outcome,
        notes: Notes | None,
        turn: Turn | None,
        *,
        has_session: bool = False,
    ) -> Finished:
        """Store `outcome` and the last notes; on `turn`, claim the next pending execution.

        All in one transaction, with the end of the execution's session; `has_session` tells of one
        that the attempt has made. The status is None where the lease was lost: nothing was written.
        Raises DatabaseUnavailableError after ten minutes without the database; the keeper then
        deals with the expired lease. What a try wrote and claimed whose answer got lost is found
        again.
        """
        ending = _Ending(claim, outcome, notes, has_session or claim.session_id is not None)
        try:
            finished = self._once(ending, turn)
        except DatabaseUnavailableError:
            finished = patiently(lambda: self._again(ending, turn), seconds=_PATIENCE_SECONDS)
        changed = [claim.lease.execution_id] if finished.status is not None else []
        if finished.claim is not None:
            changed.append(finished.claim.lease.execution_id)
        self._live.changed(changed)
        return finished

    def _once(self, ending: "_Ending", turn: Turn | None) -> Finished:
        claim, outcome = ending.claim, ending.outcome
        if ending.is_one_statement:
            with self._database.statement() as connection:
                return transitions.finish(connection, claim.lease, outcome, turn)
        with self._database.transaction() as connection:
            if ending.notes:
                leases.record(connection, [ending.notes])
            finished = transitions.finish(connection, claim.lease, outcome, turn)
            if finished.status is not None and not finished.again:
                if ending.has_session and finished.status.terminal:
                    transitions.settle_session(connection, claim.lease.execution_id)
                if isinstance(outcome, Failed):
                    _audit(connection, claim, outcome.failure)
            return finished

    def _again(self, ending: "_Ending", turn: Turn | None) -> Finished:
        taken = None
        if turn is not None:
            with self._database.statement() as connection:
                taken = transitions.claimed(connection, turn.token)
        # No turn now: what the lost try has put back could be what it takes.
        return replace(self._once(ending, None), claim=taken)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What there is to be written."""

    claim: Claim
    outcome: Outcome
    notes: Notes | None
    has_session: bool

    @property
    def is_one_statement(self) -> bool:
        """Whether nothing is to be written besides the outcome: so most executions end."""
        return not (self.notes or self.has_session or isinstance(self.outcome, Failed | Parked))


def _audit(connection: Connection, claim: Claim, failure: Failure) -> None:
    audit.failed(
        connection,
        claim.lease.execution_id,
        actor="worker",
        request_id=claim.request_id,
        details={
            "code": failure.code,
            "message": failure.message,
            "attempt": claim.lease.attempt,
        },
    )
