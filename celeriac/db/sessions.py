"""Sessions: conversations that can be gone on with."""

from collections.abc import Sequence
from dataclasses import fields
from uuid import UUID

from sqlalchemy import Connection, Row, null, select, text, update

from celeriac.db.schema import executions
from celeriac.db.schema import sessions as table
from celeriac.domain.executions.model import Lease
from celeriac.domain.sessions import Session, SessionFilter, SessionStatus
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue, storable

_SELECT = select(*(table.c[field.name] for field in fields(Session)))
_LISTED = select(
    *(
        null().label("state") if field.name == "state" else table.c[field.name]
        for field in fields(Session)
    )
)


def get(connection: Connection, session_id: UUID, *, owner: UUID | None) -> Session | None:
    """Return a session, or None where there is none or it isn't `owner`'s (None: anybody's)."""
    query = _SELECT.where(table.c.id == session_id)
    if owner is not None:
        query = query.where(table.c.owner_id == owner)
    row = connection.execute(query).one_or_none()
    return None if row is None else session_of(row)


def lock(connection: Connection, session_id: UUID, *, owner: UUID | None) -> Session | None:
    """Like `get`, and keep the row from others to the end of the transaction."""
    query = _SELECT.where(table.c.id == session_id).with_for_update()
    if owner is not None:
        query = query.where(table.c.owner_id == owner)
    row = connection.execute(query).one_or_none()
    return None if row is None else session_of(row)


def find(
    connection: Connection, wanted: SessionFilter, *, before: UUID | None, limit: int
) -> list[Session]:
    """Return up to `limit` sessions with smaller ids than `before`, the newest first.

    Their states are left out: they may be large, and nobody is shown them.
    """
    query = _LISTED.order_by(table.c.id.desc()).limit(limit)
    for name in ("owner_id", "runner", "status"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(table.c[name] == value)
    if wanted.execution_id is not None:
        begun = select(table.c.id).where(table.c.execution_id == wanted.execution_id)
        gone_on = select(executions.c.session_id).where(executions.c.id == wanted.execution_id)
        query = query.where(table.c.id.in_(begun.union(gone_on)))
    if before is not None:
        query = query.where(table.c.id < before)
    return [session_of(row) for row in connection.execute(query)]


_BEGIN = text("""
WITH held AS (
    UPDATE executions SET session_id = :id
    WHERE id = :execution_id AND attempt = :attempt AND lease_token = :token
      AND lease_until IS NOT NULL
    RETURNING owner_id
)
INSERT INTO sessions (id, owner_id, execution_id, runner, parent_id, status)
SELECT :id, owner_id, :execution_id, :runner, :parent_id, :status FROM held
ON CONFLICT (id) DO UPDATE SET status = excluded.status
RETURNING id
""")


def begin(
    connection: Connection,
    lease: Lease,
    *,
    runner: str,
    parent_id: UUID | None,
    session_id: UUID | None = None,
) -> UUID | None:
    """Make a session for the execution of `lease`; return its id, or None for a lost lease.

    With a `session_id` it can be repeated.
    """
    row = connection.execute(
        _BEGIN,
        {
            "id": session_id or uuid7(),
            "execution_id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "runner": runner,
            "parent_id": parent_id,
            "status": SessionStatus.ACTIVE,
        },
    ).one_or_none()
    return None if row is None else row[0]


_SAVE = text("""
UPDATE sessions s
SET external_id = coalesce(CAST(:external_id AS text), s.external_id),
    state = coalesce(CAST(:state AS jsonb), s.state), status = :status, updated_at = now()
FROM executions e
WHERE s.id = :id AND e.id = :execution_id AND e.session_id = s.id AND e.attempt = :attempt
  AND e.lease_token = :token AND e.lease_until IS NOT NULL
RETURNING s.id
""")


def save(
    connection: Connection,
    lease: Lease,
    session_id: UUID,
    *,
    external_id: str | None,
    state: JsonValue,
    status: SessionStatus,
) -> bool:
    """Write what is needed to go on; None keeps what there is. False for a lost lease."""
    row = connection.execute(
        _SAVE,
        {
            "id": session_id,
            "execution_id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "external_id": external_id,
            "state": None if state is None else storable(state),
            "status": status,
        },
    ).one_or_none()
    return row is not None


_USED_BY = text("""
SELECT e.id FROM executions e JOIN sessions s ON s.id = e.session_id
WHERE e.session_id = :id AND e.status IN ('pending', 'queued', 'running', 'waiting')
  AND (:forks OR s.execution_id = e.id OR e.options ->> 'fork_session' IS DISTINCT FROM 'true')
ORDER BY e.id
LIMIT 1
""")


def used_by(connection: Connection, session_id: UUID, *, forks: bool = False) -> UUID | None:
    """Return an execution that works in the session or will, or with `forks` is to fork it.

    With a lock on the session none joins meanwhile.
    """
    parameters = {"id": session_id, "forks": forks}
    return connection.execute(_USED_BY, parameters).scalar_one_or_none()


def take(connection: Connection, session_id: UUID) -> None:
    """Mark a session as worked in again; its last error is over."""
    values = {"status": SessionStatus.ACTIVE, "error_code": None, "error_message": None}
    connection.execute(
        update(table).where(table.c.id == session_id).values(**values, updated_at=text("now()"))
    )


def delete(connection: Connection, session_id: UUID) -> None:
    """Mark a session as deleted and forget its state; its files are to follow."""
    values = {"status": SessionStatus.DELETED, "state": null(), "updated_at": text("now()")}
    connection.execute(update(table).where(table.c.id == session_id).values(**values))


def files_removed(connection: Connection, session_ids: Sequence[UUID]) -> None:
    """Note that nothing is left of deleted sessions' files."""
    connection.execute(
        update(table)
        .where(table.c.id.in_(session_ids), table.c.status == SessionStatus.DELETED)
        .values(files_removed_at=text("now()"))
    )


def session_of(row: Row[tuple[object, ...]]) -> Session:
    """Read a row of all columns of a `Session`."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["status"] = SessionStatus(values["status"])
    return Session(**values)
