"""Sessions: reading and writing during attempts, continuing and forking, deletion, files."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, sessions
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import (
    FilesNotHereError,
    InvalidInputError,
    LeaseLostError,
    NotFoundError,
    SessionDeletedError,
    SessionInUseError,
    SessionUnavailableError,
)
from celeriac.domain.executions.model import Claim, Lease
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.sessions import Session, SessionFilter, SessionStatus
from celeriac.kit.files import Folder, Listing, OpenFile, remove_tree
from celeriac.kit.json_types import JsonValue
from celeriac.services.executions.queries import Queries
from celeriac.services.retrying import retry_while_unavailable, retry_while_unavailable_in
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)

_SESSIONS = "sessions"


class Sessions:
    """Shows and deletes sessions. Safe to share between threads."""

    def __init__(self, database: Database, places: StoragePaths) -> None:
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
            session = sessions.get(connection, session_id, owner=actor.scope, lock=True)
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


T = TypeVar("T")

_PATIENCE_SECONDS = 60.0


class SessionStore:
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
        session = retry_while_unavailable(lambda: self._get(session_id), seconds=_PATIENCE_SECONDS)
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
        return await retry_while_unavailable_in(
            self._database.threads, work, seconds=_PATIENCE_SECONDS
        )

    def _get(self, session_id: UUID) -> Session | None:
        with self._database.statement() as connection:
            return sessions.get(connection, session_id, owner=None)


def acquire_session(
    connection: Connection, actor: Actor, session_id: UUID, *, runner: RunnerName, fork: bool
) -> None:
    """Take a session for the execution that the same transaction is about to store.

    The row stays locked until then, so that of two that want it one is refused. A `fork` leaves the
    session as it is and may be made at any time. Raises NotFoundError, SessionDeletedError,
    SessionInUseError, and InvalidInputError for the session of another kind of agent.
    """
    session = sessions.get(connection, session_id, owner=actor.scope, lock=True)
    if session is None:
        raise NotFoundError("session", session_id)
    if session.status is SessionStatus.DELETED:
        raise SessionDeletedError(
            f"The session {session_id} was deleted; run the task without session_id.",
            session_id=str(session_id),
        )
    if session.runner != runner:
        raise InvalidInputError(
            f"The session {session_id} is of a {session.runner} agent, this task's agent is of "
            f"the kind {runner}; name a session of the same kind.",
            field="session_id",
        )
    if fork:
        return
    user = sessions.used_by(connection, session_id)
    if user is not None:
        raise SessionInUseError(
            f"The execution {user} works in the session {session_id} or waits to; wait for its "
            "end, or set fork_session to go on with a copy.",
            session_id=str(session_id),
            execution_id=str(user),
        )
    sessions.take(connection, session_id)


class Artifacts:
    """Lists and opens files of sessions and executions, for those who may see these."""

    def __init__(self, queries: Queries, sessions: Sessions, places: StoragePaths) -> None:
        """Ask `queries` and `sessions` who may see what; the files are in `places`."""
        self._queries = queries
        self._sessions = sessions
        self._places = places

    def of_session(
        self, actor: Actor, session_id: UUID, *, after: str | None, limit: int
    ) -> Listing:
        """Return a session's files behind the path `after`.

        Raises NotFoundError, FilesNotHereError, InvalidInputError.
        """
        self._sessions.get(actor, session_id)
        folder = self._places.session_files(session_id)
        return _listed(folder, "session", session_id, after=after, limit=limit)

    def of_execution(
        self, actor: Actor, execution_id: UUID, *, after: str | None, limit: int
    ) -> Listing:
        """Return the files of an execution's own directory, likewise."""
        self._queries.execution(actor, execution_id)
        folder = self._places.execution_files(execution_id)
        return _listed(folder, "execution", execution_id, after=after, limit=limit)

    def open_of_session(self, actor: Actor, session_id: UUID, path: str) -> OpenFile:
        """Open one of a session's files; the caller closes it.

        Raises NotFoundError, FilesNotHereError, InvalidInputError.
        """
        self._sessions.get(actor, session_id)
        return _opened(self._places.session_files(session_id), "session", session_id, path)

    def open_of_execution(self, actor: Actor, execution_id: UUID, path: str) -> OpenFile:
        """Open one of the files of an execution's own directory, likewise."""
        self._queries.execution(actor, execution_id)
        return _opened(self._places.execution_files(execution_id), "execution", execution_id, path)


def _listed(
    folder: Folder, resource: str, identifier: UUID, *, after: str | None, limit: int
) -> Listing:
    try:
        return folder.files(after=after, limit=limit)
    except ValueError as error:
        raise InvalidInputError(f"after {error}.", field="after") from error
    except OSError as error:
        raise FilesNotHereError(resource, identifier) from error


def _opened(folder: Folder, resource: str, identifier: UUID, path: str) -> OpenFile:
    try:
        return folder.open(path)
    except ValueError as error:
        raise InvalidInputError(f"The path {error}.", field="path") from error
    except OSError as error:
        if not folder.exists():
            raise FilesNotHereError(resource, identifier) from error
        raise NotFoundError("file", path) from error
