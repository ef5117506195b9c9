"""Sessions as people see them: looked at, listed, deleted."""

from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import audit, sessions
from celeriac.db.engine import Database
from celeriac.db.sessions import SessionFilter
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import NotFoundError, SessionInUseError
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.session import Session, SessionStatus
from celeriac.kit.removal import remove_tree
from celeriac.services.places import Places

logger = structlog.get_logger(__name__)

_SESSIONS = "sessions"


class Sessions:
    """Shows and deletes sessions. Safe to share between threads."""

    def __init__(self, database: Database, places: Places) -> None:
        """Work on `database`, and on the files in `places`."""
        self._database = database
        self._places = places

    def get(self, actor: Actor, session_id: UUID) -> Session:
        """Return a session. Raises NotFoundError."""
        with self._database.statement() as connection:
            found = sessions.get(connection, session_id, owner=actor.scope)
        if found is None:
            raise NotFoundError("session", session_id)
        return found

    def find(
        self, actor: Actor, wanted: SessionFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Session]:
        """Return a page of the sessions that the actor may see. Raises CursorInvalidError."""
        before = read_cursor(_SESSIONS, cursor)
        if actor.scope is not None:
            wanted = replace(wanted, owner_id=actor.scope)
        with self._database.statement() as connection:
            found = sessions.find(connection, wanted, before=before, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_SESSIONS, key=lambda session: session.id)

    def delete(self, actor: Actor, session_id: UUID) -> None:
        """Forget a session's state and remove its files; the row stays as `deleted`.

        Files that are not within this machine's reach are removed by the keeper. Deleting what is
        deleted changes nothing. Raises NotFoundError, and SessionInUseError while an execution
        works in it, waits to, or is to fork it.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            session = sessions.lock(connection, session_id, owner=actor.scope)
            if session is None:
                raise NotFoundError("session", session_id)
            if session.status is SessionStatus.DELETED:
                return
            user = sessions.used_by(connection, session_id, forks=True)
            if user is not None:
                raise SessionInUseError(
                    f"The execution {user} works in the session {session_id}, waits to, or is to "
                    "fork it; cancel it or wait for its end.",
                    session_id=str(session_id),
                    execution_id=str(user),
                )
            sessions.delete(connection, session_id)
            details = {"owner_id": str(session.owner_id), "status": session.status.value}
            audit.record(
                connection, actor, "session.delete", "session", [session_id], details=details
            )
        logger.info("session.deleted", session_id=session_id)
        directory = self._places.session(session_id)
        if directory.exists() and remove_tree(directory):
            with self._database.statement() as connection:
                sessions.files_removed(connection, [session_id])
