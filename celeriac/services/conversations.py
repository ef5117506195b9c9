"""Conversations: the sessions of running attempts, read and written for their runners."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from celeriac.db import sessions
from celeriac.db.engine import Database
from celeriac.domain.errors import LeaseLostError, SessionUnavailableError
from celeriac.domain.execution import Claim, Lease
from celeriac.domain.session import Session, SessionStatus
from celeriac.kit.jsontypes import JsonValue
from celeriac.services.patience import patiently, patiently_in

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0


class Conversations:
    """Sessions as workers use them; every writing is fenced by the attempt's lease.

    All of them wait up to a minute for the database. Raise DatabaseUnavailableError after that.
    """

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    def of(self, claim: Claim) -> Session | None:
        """Return the session that the attempt goes on with, if any; the calling thread waits.

        Raises SessionUnavailableError where it is gone.
        """
        if claim.session_id is None:
            return None
        session_id = claim.session_id
        session = patiently(lambda: self._get(session_id), seconds=_PATIENCE_SECONDS)
        if session is None or session.status is SessionStatus.DELETED:
            raise SessionUnavailableError(
                f"The session {claim.session_id} was deleted; run the task without it.",
                session_id=str(claim.session_id),
            )
        return session

    async def begin(
        self, lease: Lease, session_id: UUID, *, runner: str, parent_id: UUID | None
    ) -> None:
        """Make a session for the attempt's execution, once under its id. Raises LeaseLostError."""

        def begin() -> UUID | None:
            with self._database.statement() as connection:
                return sessions.begin(
                    connection, lease, runner=runner, parent_id=parent_id, session_id=session_id
                )

        if await self._in_threads(begin) is None:
            raise LeaseLostError("This worker no longer owns the attempt.")

    async def save(
        self, lease: Lease, session_id: UUID, *, external_id: str | None, state: JsonValue
    ) -> None:
        """Store what is needed to go on; None keeps what there is. Raises LeaseLostError."""

        def write() -> bool:
            with self._database.statement() as connection:
                return sessions.save(
                    connection,
                    lease,
                    session_id,
                    external_id=external_id,
                    state=state,
                    status=SessionStatus.ACTIVE,
                )

        if not await self._in_threads(write):
            raise LeaseLostError("This worker no longer owns the attempt.")

    async def _in_threads(self, work: Callable[[], T]) -> T:
        return await patiently_in(self._database.threads, work, seconds=_PATIENCE_SECONDS)

    def _get(self, session_id: UUID) -> Session | None:
        with self._database.statement() as connection:
            return sessions.get(connection, session_id, owner=None)
