"""Sessions: reading and deletion, use by attempts, continuing and forking."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from uuid import UUID

import structlog

from celeriac.db import audit, sessions, transcripts
from celeriac.db.engine import Connection, Database
from celeriac.db.sessions import MessageChange
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import (
    InvalidInputError,
    LeaseLostError,
    SessionDeletedError,
    SessionInUseError,
    SessionUnavailableError,
)
from celeriac.domain.executions.model import Claim, Lease
from celeriac.domain.paging import Page
from celeriac.domain.sessions import Session, SessionFilter, SessionStatus, TranscriptKey
from celeriac.kit.files import remove_tree
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue, storable
from celeriac.logs import Step
from celeriac.services.reading import present, read_page
from celeriac.services.retrying import retry_statement, retry_while_unavailable
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)


class Sessions:
    """Reads and deletes sessions. Safe to share between threads."""

    def __init__(self, database: Database, places: StoragePaths) -> None:
        self._database = database
        self._places = places

    def get(self, actor: Actor, session_id: UUID) -> Session:
        """Return a session. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            found = sessions.get(connection, session_id, workspace=actor.workspace_id)
        return present(found, "session", session_id)

    def find(
        self, actor: Actor, wanted: SessionFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Session]:
        """Return a page of the sessions that the actor may see. Raises CursorInvalidError."""
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        find = partial(sessions.find, wanted=wanted)
        return read_page(self._database, "sessions", cursor, limit, find)

    def delete(self, actor: Actor, session_id: UUID) -> None:
        """Delete a session's state, messages and files; the row stays as `deleted`.

        The keeper removes files that this machine can't reach. Deleting it again changes nothing.
        Raises NotFoundError, and SessionInUseError while an execution uses it or will.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = sessions.get(connection, session_id, workspace=actor.workspace_id, lock=True)
            session = present(found, "session", session_id)
            if session.status is SessionStatus.DELETED:
                return
            user = sessions.used_by(connection, session_id, forks=True)
            if user is not None:
                uses = f"works in the session {session_id}, waits to, or is to fork it"
                raise _in_use(session_id, user, f"{uses}; cancel it or wait for its end.")
            sessions.delete(connection, session_id)
            details = {"owner_id": str(session.owner_id), "status": session.status.value}
            audit.record(connection, actor, "session.delete", [session_id], details=details)
        logger.info("session.deleted", session_id=session_id)
        directory = self._places.session(session_id)
        if directory.exists() and remove_tree(directory):
            with self._database.autocommit() as connection:
                sessions.files_removed(connection, [session_id])


_DATABASE_SECONDS = 60.0


class SessionStore:
    """The sessions of running attempts; every write names the attempt's lease.

    Methods wait up to a minute for the database and raise DatabaseUnavailableError after that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, claim: Claim) -> Session | None:
        """Return the session that the attempt continues, if any; blocks the calling thread.

        Raises SessionUnavailableError if it was deleted.
        """
        if claim.session_id is None:
            return None
        session_id = claim.session_id
        session = retry_while_unavailable(lambda: self._load(session_id), seconds=_DATABASE_SECONDS)
        if session is None or session.status is SessionStatus.DELETED:
            raise SessionUnavailableError(
                f"The session {claim.session_id} was deleted; run the task without it.",
                session_id=str(claim.session_id),
            )
        return session

    async def create(
        self, lease: Lease, session_id: UUID, *, runner: str, parent_id: UUID | None
    ) -> None:
        """Create a session for the attempt's execution. Repeatable. Raises LeaseLostError."""
        created = await retry_statement(
            self._database,
            lambda connection: sessions.begin(
                connection, lease, runner=runner, parent_id=parent_id, session_id=session_id
            ),
        )
        if created is None:
            raise LeaseLostError("This worker no longer owns the attempt.")

    async def save(
        self,
        lease: Lease,
        session_id: UUID,
        *,
        number: int,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: MessageChange | None = None,
    ) -> None:
        """Store what a later attempt needs; None keeps a value. Raises LeaseLostError.

        Repeatable; without effect after a save with a greater `number`.
        """
        saved = await retry_statement(
            self._database,
            lambda connection: sessions.save(
                connection,
                lease,
                session_id,
                number=number,
                external_id=external_id,
                state=state,
                messages=messages,
                status=SessionStatus.ACTIVE,
            ),
        )
        if not saved:
            raise LeaseLostError("This worker no longer owns the attempt.")

    def transcripts(self, lease: Lease, session_id: UUID) -> "SessionTranscripts":
        """Return the transcripts of a session for an attempt."""
        return SessionTranscripts(self._database, lease, session_id)

    def _load(self, session_id: UUID) -> Session | None:
        with self._database.autocommit() as connection:
            return sessions.load(connection, session_id)


class SessionTranscripts:
    """The transcripts of one session; see `Transcripts` in `celeriac.services.ports`."""

    def __init__(self, database: Database, lease: Lease, session_id: UUID) -> None:
        self._database = database
        self._lease = lease
        self._session_id = session_id

    async def append(self, key: TranscriptKey, entries: Sequence[JsonValue]) -> None:
        """Add entries."""
        write = partial(
            transcripts.append,
            lease=self._lease,
            session_id=self._session_id,
            key=key,
            # of one call: a statement that is sent again adds nothing
            entry_ids=[_entry_id(each) for each in entries],
            bodies=[storable(each) for each in entries],
        )
        if not await retry_statement(self._database, write):
            raise LeaseLostError("This worker no longer owns the attempt.")

    async def load(self, key: TranscriptKey) -> list[JsonValue]:
        """Return all entries."""
        read = partial(transcripts.load, session_id=self._session_id, key=key)
        return await retry_statement(self._database, read)

    async def subpaths(self, key: TranscriptKey) -> list[str]:
        """Return the parts besides the main transcript."""
        read = partial(transcripts.subpaths, session_id=self._session_id, key=key)
        return await retry_statement(self._database, read)


def _entry_id(entry: JsonValue) -> str:
    """Return what makes an entry a repeat of another: its own id, if it has one."""
    own = entry.get("uuid") if isinstance(entry, dict) else None
    return own if isinstance(own, str) and own else f"~{uuid7()}"


class AttemptSession:
    """The session that an attempt writes: created on first use. Safe to share between threads.

    It knows which messages are stored, and sends only those that differ.
    """

    def __init__(
        self,
        store: SessionStore,
        lease: Lease,
        *,
        runner: str,
        given: Session | None,
        forks: bool,
    ) -> None:
        """Write `given`, or with `forks` a new session whose parent it is."""
        self._store = store
        self._lease = lease
        self._runner = runner
        self._parent_id = given.id if given and forks else None
        own = None if forks else given
        self._id = own.id if own else None
        self._new_id: UUID | None = None
        self._number = own.save_no if own else 0
        self._stored = [_digest(storable(each)) for each in own.messages] if own else []
        self._lock = threading.Lock()

    async def save(
        self,
        *,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: Sequence[JsonValue] | None = None,
    ) -> UUID:
        """Create the session on first use, store what is not None, and return the session's id.

        Raises LeaseLostError, and TypeError for values that JSON can't hold.
        """
        session_id = self._id or await self._create()
        if external_id is None and state is None and messages is None:
            return session_id
        bodies = None if messages is None else [storable(each) for each in messages]
        digests = None if bodies is None else [_digest(each) for each in bodies]
        with self._lock:
            self._number += 1
            number, change = self._number, None
            if bodies is not None and digests is not None:
                kept = _common(self._stored, digests)
                change = MessageChange(kept, bodies[kept:])
                # until it is known whether this save is stored, only what it keeps is sure
                del self._stored[kept:]
        await self._store.save(
            self._lease,
            session_id,
            number=number,
            external_id=external_id,
            state=state,
            messages=change,
        )
        with self._lock:
            if digests is not None and number == self._number:
                self._stored = digests
        return session_id

    async def _create(self) -> UUID:
        with self._lock:  # one id for concurrent first saves: the session is created once
            new_id = self._new_id = self._new_id or uuid7()
        await self._store.create(
            self._lease, new_id, runner=self._runner, parent_id=self._parent_id
        )
        with self._lock:
            fresh, self._id = self._id is None, new_id
        if fresh:
            logger.info(Step.SESSION_CREATED, session_id=new_id)
        return new_id


def _digest(body: str) -> bytes:
    return blake2b(body.encode(), digest_size=16).digest()


def _common(stored: Sequence[bytes], wanted: Sequence[bytes]) -> int:
    """Return how many digests at the beginning are the same."""
    pairs = enumerate(zip(stored, wanted, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(stored), len(wanted)))


def acquire_session(
    connection: Connection, actor: Actor, session_id: UUID, *, runner: RunnerName, fork: bool
) -> None:
    """Reserve a session for the execution that the same transaction stores.

    The row is locked until the commit, so only one of two concurrent requests gets it. A `fork`
    does not change the session and is always allowed. Raises NotFoundError, SessionDeletedError,
    SessionInUseError, and InvalidInputError for a session of another runner.
    """
    found = sessions.get(connection, session_id, workspace=actor.workspace_id, lock=True)
    session = present(found, "session", session_id)
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
        cure = "wait for its end, or set fork_session to continue a copy of it."
        raise _in_use(session_id, user, f"works in the session {session_id} or waits to; {cure}")
    sessions.take(connection, session_id)


def _in_use(session_id: UUID, execution_id: UUID, why: str) -> SessionInUseError:
    return SessionInUseError(
        f"The execution {execution_id} {why}",
        session_id=str(session_id),
        execution_id=str(execution_id),
    )
