"""Conversations: the sessions of running attempts, read and written for their runners."""

from uuid import UUID

from celeriac.db import sessions
from celeriac.db.engine import Database
from celeriac.domain.errors import LeaseLostError, SessionUnavailableError
from celeriac.domain.execution import Claim, Lease
from celeriac.domain.session import Session, SessionStatus
from celeriac.kit.jsontypes import JsonValue


class Conversations:
    """Sessions as workers use them; every writing is fenced by the attempt's lease."""

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    def of(self, claim: Claim) -> Session | None:
        """Return the session that the attempt goes on with, if any.

        Raises SessionUnavailableError where it is gone.
        """
        if claim.session_id is None:
            return None
        with self._database.statement() as connection:
            session = sessions.get(connection, claim.session_id, owner=None)
        if session is None or session.status is SessionStatus.DELETED:
            raise SessionUnavailableError(
                f"The session {claim.session_id} was deleted; run the task without it.",
                session_id=str(claim.session_id),
            )
        return session

    def begin(self, lease: Lease, *, runner: str, parent_id: UUID | None) -> UUID:
        """Make a session for the attempt's execution. Raises LeaseLostError."""
        with self._database.statement() as connection:
            session_id = sessions.begin(connection, lease, runner=runner, parent_id=parent_id)
        if session_id is None:
            raise LeaseLostError("This worker no longer owns the attempt.")
        return session_id

    def save(
        self, lease: Lease, session_id: UUID, *, external_id: str | None, state: JsonValue
    ) -> None:
        """Store what is needed to go on; None keeps what there is. Raises LeaseLostError."""
        with self._database.statement() as connection:
            saved = sessions.save(
                connection,
                lease,
                session_id,
                external_id=external_id,
                state=state,
                status=SessionStatus.ACTIVE,
            )
        if not saved:
            raise LeaseLostError("This worker no longer owns the attempt.")
