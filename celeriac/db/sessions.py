"""Sessions: conversations that later executions can continue."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, literal_column, null, select, text, update

from celeriac.db.artifacts import delete_sets
from celeriac.db.paging import columns, given, matching, newest, read_all, read_one, reader
from celeriac.db.schema.executions import executions
from celeriac.db.schema.sessions import sessions as table
from celeriac.domain.executions.model import Lease
from celeriac.domain.sessions import Session, SessionFilter, SessionStatus
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue, loads, storable

_MESSAGES: ColumnElement[Any] = literal_column(
    "ARRAY(SELECT m.body::text FROM session_messages m"
    " WHERE m.session_id = sessions.id AND m.seq <= sessions.message_count ORDER BY m.seq)"
)
_SELECT = columns(Session, table, messages=null())
_LISTED = columns(Session, table, state=null(), messages=null())
_WHOLE = columns(Session, table, messages=_MESSAGES)
_session = reader(Session, messages=lambda texts: tuple(map(loads, texts or ())))


def get(
    connection: Connection, session_id: UUID, *, workspace: UUID | None, lock: bool = False
) -> Session | None:
    """Return a session of `workspace` (None: of any), or None if there is none.

    `lock` locks its row until the transaction ends.
    """
    query = given(_SELECT.where(table.c.id == session_id), (table.c.workspace_id, workspace))
    return read_one(connection, query.with_for_update() if lock else query, _session)


def load(connection: Connection, session_id: UUID) -> Session | None:
    """Return a session with its messages, both of one instant, or None if there is none."""
    return read_one(connection, _WHOLE.where(table.c.id == session_id), _session)


def find(
    connection: Connection, wanted: SessionFilter, *, before: UUID | None, limit: int
) -> list[Session]:
    """Return up to `limit` sessions with smaller ids than `before`, the newest first.

    Their states are left out: they may be large, and the API does not show them.
    """
    query = matching(_LISTED, table, wanted, "workspace_id", "runner", "status")
    if wanted.execution_id is not None:
        created = select(table.c.id).where(table.c.execution_id == wanted.execution_id)
        continued = select(executions.c.session_id).where(executions.c.id == wanted.execution_id)
        query = query.where(table.c.id.in_(created.union(continued)))
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _session)


_BEGIN = text("""
WITH held AS (
    UPDATE executions SET session_id = :id
    WHERE id = :execution_id AND attempt = :attempt AND lease_token = :token
      AND status = 'running'
    RETURNING workspace_id, owner_id
)
INSERT INTO sessions (id, workspace_id, owner_id, execution_id, runner, parent_id, status)
SELECT :id, workspace_id, owner_id, :execution_id, :runner, :parent_id, :status FROM held
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
    """Create a session for the execution of `lease`; return its id, or None for a lost lease.

    With a `session_id` it is idempotent.
    """
    row = connection.execute(
        _BEGIN,
        {
            "id": session_id or uuid7(),
            **asdict(lease),
            "runner": runner,
            "parent_id": parent_id,
            "status": SessionStatus.ACTIVE,
        },
    ).one_or_none()
    return None if row is None else row[0]


_SAVE = text("""
WITH held AS (
    -- locked: a save is not stored after the end of its attempt
    SELECT e.session_id FROM executions e
    WHERE e.id = :execution_id AND e.attempt = :attempt AND e.lease_token = :token
      AND e.status = 'running'
    FOR NO KEY UPDATE
), saved AS (
    UPDATE sessions s
    SET external_id = coalesce(CAST(:external_id AS text), s.external_id),
        state = coalesce(CAST(:state AS json), s.state),
        message_count = coalesce(CAST(:total AS int), s.message_count),
        status = :status, save_no = :number, updated_at = now()
    -- a save that a later one has overtaken is not stored
    WHERE s.id = :id AND s.id = ANY (ARRAY(SELECT session_id FROM held))
      AND s.save_no <= :number
    RETURNING s.id
), stored AS (
    INSERT INTO session_messages AS m (session_id, seq, body)
    SELECT saved.id, :kept + b.place, CAST(b.body AS json)
    FROM saved, unnest(CAST(:bodies AS text[])) WITH ORDINALITY AS b (body, place)
    -- sent again, or a history that the runner has rewritten
    ON CONFLICT (session_id, seq) DO UPDATE SET body = excluded.body
), cut AS (
    -- may miss those of a save that it has waited for; nobody reads beyond the count
    DELETE FROM session_messages
    WHERE session_id = ANY (ARRAY(SELECT id FROM saved)) AND seq > :total
)
SELECT session_id FROM held WHERE session_id = :id
""")


@dataclass(frozen=True, slots=True)
class MessageChange:
    """A change of a session's messages: the first `kept` stay, `added` follow, others go."""

    kept: int
    added: Sequence[str]
    """JSON texts."""


def save(
    connection: Connection,
    lease: Lease,
    session_id: UUID,
    *,
    number: int,
    external_id: str | None = None,
    state: JsonValue = None,
    messages: MessageChange | None = None,
    status: SessionStatus,
) -> bool:
    """Save what a later attempt needs; None keeps the stored value. False for a lost lease.

    Saves of a session are numbered upwards: one that is sent again changes nothing, and one that a
    later one has overtaken is not stored.
    """
    change = messages or MessageChange(0, ())
    row = connection.execute(
        _SAVE,
        {
            "id": session_id,
            **asdict(lease),
            "number": number,
            "external_id": external_id,
            "state": None if state is None else storable(state),
            "status": status,
            "kept": change.kept,
            "bodies": list(change.added),
            "total": None if messages is None else change.kept + len(change.added),
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
    """Return an execution that uses the session or waits to, or with `forks` waits to fork it.

    While the session is locked, no other execution can start to use it.
    """
    parameters = {"id": session_id, "forks": forks}
    return connection.execute(_USED_BY, parameters).scalar_one_or_none()


def take(connection: Connection, session_id: UUID) -> None:
    """Mark a session as active again and clear its last error."""
    values = {"status": SessionStatus.ACTIVE, "error_code": None, "error_message": None}
    connection.execute(
        update(table).where(table.c.id == session_id).values(**values, updated_at=text("now()"))
    )


_DELETE = text(f"""
WITH deleted AS (
    UPDATE sessions SET status = 'deleted', state = NULL, updated_at = now() WHERE id = :id
    RETURNING id
), files_gone AS (
    {delete_sets("ARRAY(SELECT id FROM deleted)")}
), transcripts_gone AS (
    DELETE FROM transcript_entries WHERE session_id = ANY (ARRAY(SELECT id FROM deleted))
)
DELETE FROM session_messages WHERE session_id = ANY (ARRAY(SELECT id FROM deleted))
""")  # noqa: S608 - put together from constants


def delete(connection: Connection, session_id: UUID) -> None:
    """Mark a session as deleted, without state and messages; its files are removed later."""
    connection.execute(_DELETE, {"id": session_id})


def files_removed(connection: Connection, session_ids: Sequence[UUID]) -> None:
    """Record that the files of deleted sessions are removed."""
    connection.execute(
        update(table)
        .where(table.c.id.in_(session_ids), table.c.status == SessionStatus.DELETED)
        .values(files_removed_at=text("now()"))
    )
