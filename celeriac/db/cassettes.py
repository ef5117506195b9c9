"""Cassettes: recorded model traffic, compressed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.cassettes import cassettes as table
from celeriac.domain.accounts import Actor
from celeriac.domain.cassettes import CassetteSummary
from celeriac.domain.executions.model import Lease
from celeriac.kit.ids import uuid7

_SUMMARY = columns(CassetteSummary, table)
_summary = reader(CassetteSummary)


@dataclass(frozen=True, slots=True)
class Contents:
    """The stored values of a cassette; `content` is its text compressed with zlib."""

    interactions: int
    size: int
    complete: bool
    digest: bytes
    content: bytes


def get(connection: Connection, cassette_id: UUID, *, workspace: UUID) -> CassetteSummary | None:
    """Return a cassette of `workspace`, or None if there is none."""
    query = _SUMMARY.where(table.c.id == cassette_id, table.c.workspace_id == workspace)
    return read_one(connection, query, _summary)


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[CassetteSummary]:
    """Return up to `limit` cassettes with smaller ids than `before`, the newest first."""
    query = _SUMMARY.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _summary)


def recorded(
    connection: Connection, execution_ids: Sequence[UUID], *, workspace: UUID
) -> set[UUID]:
    """Return those of the executions that have a cassette, which has the same id."""
    query = select(table.c.id).where(
        table.c.id.in_(execution_ids), table.c.workspace_id == workspace
    )
    return set(connection.execute(query).scalars())


def content(connection: Connection, cassette_id: UUID) -> bytes | None:
    """Return the compressed text of a cassette, or None if there is none."""
    query = select(table.c.content).where(table.c.id == cassette_id)
    return connection.execute(query).scalar_one_or_none()


def remove(connection: Connection, cassette_id: UUID) -> None:
    """Delete a cassette."""
    connection.execute(delete(table).where(table.c.id == cassette_id))


def upload(connection: Connection, actor: Actor, name: str, contents: Contents) -> UUID:
    """Store an uploaded cassette; return its id, or that of an identical earlier upload."""
    same = insert(table).values(
        id=uuid7(),
        workspace_id=actor.workspace_id,
        owner_id=actor.user_id,
        name=name,
        execution_id=None,
        **asdict(contents),
    )
    statement = same.on_conflict_do_update(
        index_elements=[table.c.workspace_id, table.c.digest],
        index_where=table.c.execution_id.is_(None),
        # changes nothing; a conflict that does nothing would return no row
        set_={"digest": same.excluded.digest},
    ).returning(table.c.id)
    cassette_id: UUID = connection.execute(statement).scalar_one()
    return cassette_id


_RECORD = text("""
WITH held AS (
    SELECT id, workspace_id, owner_id FROM executions
    WHERE id = :id AND attempt = :attempt AND lease_token = :token AND status = 'running'
    FOR UPDATE
)
INSERT INTO cassettes (id, workspace_id, owner_id, name, execution_id, interactions, size, complete,
                       digest, content)
SELECT id, workspace_id, owner_id, :name, id, :interactions, :size, :complete, :digest,
       :content
FROM held
ON CONFLICT (id) DO UPDATE
SET interactions = excluded.interactions, size = excluded.size, complete = excluded.complete,
    digest = excluded.digest, content = excluded.content
RETURNING id
""")


def record(connection: Connection, lease: Lease, name: str, contents: Contents) -> bool:
    """Store or replace the execution's recording; False for a lost lease."""
    row = connection.execute(
        _RECORD,
        {
            "id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "name": name,
            **asdict(contents),
        },
    ).one_or_none()
    return row is not None
