"""Continuing: what must hold for a new execution to go on with an earlier session."""

from uuid import UUID

from sqlalchemy import Connection

from celeriac.db import sessions
from celeriac.domain.accounts import Actor
from celeriac.domain.agent import RunnerName
from celeriac.domain.errors import (
    InvalidInputError,
    NotFoundError,
    SessionDeletedError,
    SessionInUseError,
)
from celeriac.domain.session import SessionStatus


def continue_session(
    connection: Connection, actor: Actor, session_id: UUID, *, runner: RunnerName, fork: bool
) -> None:
    """Take a session for the execution that the same transaction is about to store.

    The row stays locked until then, so that of two that want it one is refused. A `fork` leaves the
    session as it is and may be made at any time. Raises NotFoundError, SessionDeletedError,
    SessionInUseError, and InvalidInputError for the session of another kind of agent.
    """
    session = sessions.lock(connection, session_id, owner=actor.scope)
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
