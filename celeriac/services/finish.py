"""Finish: write how an attempt ended, once, and only while its lease is ours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, leases, transitions
from celeriac.db.engine import Database, first_line, refuses
from celeriac.db.leases import Notes
from celeriac.db.transitions import Finished, Turn
from celeriac.domain.errors import (
    CeleriacError,
    ResultNotStorableError,
)
from celeriac.domain.execution import Claim
from celeriac.domain.outcome import Failed, Failure, HandedBack, Outcome, Parked, Retry
from celeriac.kit.jsontypes import storable_text
from celeriac.services.failures import describe
from celeriac.services.notebook import bill_of
from celeriac.services.patience import is_unavailable, patiently
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

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
        notes: Sequence[Notes],
        turn: Turn | None,
        *,
        has_session: bool = False,
    ) -> Finished:
        """Store `outcome` and the last notes; on `turn`, claim the next pending execution.

        All in one transaction, with the end of the execution's session; `has_session` tells of one
        that the attempt has made. The status is None where the lease was lost: nothing was written.
        Raises DatabaseUnavailableError after ten minutes without the database; the keeper then
        deals with the expired lease. What a try wrote and claimed whose answer got lost is found
        again. What the database refuses because of its data is stored as a failure instead, at
        once; any other error may pass and is waited for in the same way.
        """
        ending = _Ending(claim, outcome, notes, has_session or claim.session_id is not None)
        try:
            finished = self._patiently(ending, turn)
        except Exception as error:
            if not refuses(error):
                raise
            kind, reason = type(error).__name__, first_line(error)
            logger.error("execution.end_refused", kind=kind, error=reason)  # noqa: TRY400 - the trace holds the values
            finished = self._instead(ending, turn, error)
        changed = [claim.lease.execution_id] if finished.status is not None else []
        if finished.claim is not None:
            changed.append(finished.claim.lease.execution_id)
        self._tell(changed)
        return finished

    def _patiently(self, ending: "_Ending", turn: Turn | None) -> Finished:
        try:
            return self._once(ending, turn)
        except Exception as error:
            if not _may_pass(error):
                raise
        return patiently(lambda: self._again(ending, turn), seconds=_PATIENCE_SECONDS, on=_may_pass)

    def _once(self, ending: "_Ending", turn: Turn | None) -> Finished:
        claim, outcome = ending.claim, ending.outcome
        if ending.is_one_statement:
            with self._database.statement() as connection:
                return transitions.finish(connection, claim.lease, outcome, turn)
        with self._database.transaction() as connection:
            for batch in ending.notes:
                leases.record(connection, [batch])
            finished = transitions.finish(connection, claim.lease, outcome, turn)
            if finished.status is not None and not finished.again:
                if ending.has_session and finished.status.terminal:
                    transitions.settle_session(connection, claim.lease.execution_id)
                if isinstance(outcome, Failed):
                    _audit(connection, claim, outcome.failure)
            return finished

    def _again(self, ending: "_Ending", turn: Turn | None) -> Finished:
        """Write once more what may be written already, and find what was claimed with it.

        In this order: the server may still be at the first try, which holds the lock of the row
        until its claim can be seen. No turn now: what the lost try has put back could be what it
        takes.
        """
        finished = self._once(ending, None)
        if turn is None or (finished.status is not None and not finished.again):
            return finished  # the first try did nothing, and a late one finds nothing to end
        with self._database.statement() as connection:
            return replace(finished, claim=transitions.claimed(connection, turn.token))

    def _instead(self, ending: "_Ending", turn: Turn | None, refused: Exception) -> Finished:
        """End an attempt whose outcome or last notes the database refuses."""
        alone = replace(ending, notes=())
        if ending.notes:
            for batch in ending.notes:
                self._record_alone(batch)
            try:
                return self._patiently(alone, turn)  # only the notes were at fault
            except Exception as error:
                if not refuses(error):
                    raise
                refused = error
        outcome = _storable(ending.outcome, refused, attempt=ending.claim.lease.attempt)
        return replace(self._patiently(replace(alone, outcome=outcome), turn), instead=outcome)

    def _record_alone(self, batch: Notes) -> None:
        """Store of a batch what can be stored: all of it, or its model calls, or its number."""
        for notes in (batch, bill_of(batch), Notes(batch.lease, number=batch.number)):
            if notes is None:
                continue
            try:
                patiently(partial(self._record, notes), seconds=_PATIENCE_SECONDS, on=_may_pass)
            except Exception as error:
                if not refuses(error):
                    raise
                logger.error("notebook.refused", error=first_line(error))  # noqa: TRY400 - as above
            else:
                return

    def _record(self, notes: Notes) -> None:
        with self._database.statement() as connection:
            leases.record(connection, [notes])

    def _tell(self, changed: Sequence[UUID]) -> None:
        try:
            self._live.changed(changed)
        except Exception:  # it is stored, and what was claimed with it must not be lost
            logger.exception("execution.not_told")


def _may_pass(error: BaseException) -> bool:
    """Whether the same may be stored later: all but what is refused, and refusals of our own."""
    if isinstance(error, CeleriacError):
        return is_unavailable(error)
    return isinstance(error, Exception) and not refuses(error)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What there is to be written."""

    claim: Claim
    outcome: Outcome
    notes: Sequence[Notes]
    has_session: bool

    @property
    def is_one_statement(self) -> bool:
        """Whether nothing is to be written besides the outcome: so most executions end."""
        return not (self.notes or self.has_session or isinstance(self.outcome, Failed | Parked))


def _storable(outcome: Outcome, refused: Exception, *, attempt: int) -> Outcome:
    """Return what is stored in the place of an outcome that the database refuses."""
    match outcome:
        case Retry(failure, delay):
            return Retry(_bare(failure, attempt), delay)
        case Failed(failure):
            return Failed(_bare(failure, attempt))
        case HandedBack(_, delay):
            return HandedBack(None, delay)
    error = ResultNotStorableError(
        f"What the attempt came to can't be stored: {first_line(refused)}. Return plain JSON."
    )
    return Failed(describe(error, attempt=attempt).failure)


def _bare(failure: Failure, attempt: int) -> Failure:
    kind = str(failure.details.get("type", failure.code))
    details = {"type": storable_text(kind), "traceback": None, "attempt": attempt}
    return Failure(storable_text(failure.code), storable_text(failure.message), details)


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
