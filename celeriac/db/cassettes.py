"""Cassettes: recorded model traffic, compressed."""

from dataclasses import dataclass, fields
from uuid import UUID

from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.schema import cassettes as table
from celeriac.domain.cassettes import CassetteSummary
from celeriac.domain.executions.model import Lease
from celeriac.kit.ids import uuid7

_SUMMARY = tuple(table.c[field.name] for field in fields(CassetteSummary))


@dataclass(frozen=True, slots=True)
class Contents:
    """What is stored of a cassette; `content` is its text compressed with zlib."""

    interactions: int
    size: int
    complete: bool
    digest: bytes
    content: bytes


def get(connection: Connection, cassette_id: UUID, *, owner: UUID | None) -> CassetteSummary | None:
    """Return a cassette, or None where there is none or it isn't `owner`'s (None: anybody's)."""
    query = select(*_SUMMARY).where(table.c.id == cassette_id)
    if owner is not None:
        query = query.where(table.c.owner_id == owner)
    row = connection.execute(query).one_or_none()
    return None if row is None else CassetteSummary(*row)


def find(
    connection: Connection, *, owner: UUID | None, before: UUID | None, limit: int
) -> list[CassetteSummary]:
    """Return up to `limit` cassettes with smaller ids than `before`, the newest first."""
    query = select(*_SUMMARY).order_by(table.c.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(table.c.owner_id == owner)
    if before is not None:
        query = query.where(table.c.id < before)
    return [CassetteSummary(*row) for row in connection.execute(query)]


def content(connection: Connection, cassette_id: UUID) -> bytes | None:
    """Return the compressed text of a cassette, or None where there is none."""
    query = select(table.c.content).where(table.c.id == cassette_id)
    return connection.execute(query).scalar_one_or_none()


def remove(connection: Connection, cassette_id: UUID) -> None:
    """Delete a cassette."""
    connection.execute(delete(table).where(table.c.id == cassette_id))


def upload(connection: Connection, owner_id: UUID, name: str, contents: Contents) -> UUID:
    """Store an uploaded cassette; return its id, or that of the same one uploaded before."""
    same = insert(table).values(
        id=uuid7(), owner_id=owner_id, name=name, execution_id=None, **_columns(contents)
    )
    statement = same.on_conflict_do_update(
        index_elements=[table.c.owner_id, table.c.digest],
        index_where=table.c.execution_id.is_(None),
        # changes nothing; a conflict that does nothing would return no row
        set_={"digest": same.excluded.digest},
    ).returning(table.c.id)
    cassette_id: UUID = connection.execute(statement).scalar_one()
    return cassette_id


_RECORD = text("""
WITH held AS (
    SELECT id, owner_id FROM executions
    WHERE id = :id AND attempt = :attempt AND lease_token = :token AND lease_until IS NOT NULL
    FOR UPDATE
)
INSERT INTO cassettes (id, owner_id, name, execution_id, interactions, size, complete, digest,
                       content)
SELECT id, owner_id, :name, id, :interactions, :size, :complete, :digest, :content FROM held
ON CONFLICT (id) DO UPDATE
SET interactions = excluded.interactions, size = excluded.size, complete = excluded.complete,
    digest = excluded.digest, content = excluded.content
RETURNING id
""")


def record(connection: Connection, lease: Lease, name: str, contents: Contents) -> bool:
    """Put `contents` in the place of what the execution has recorded; False for a lost lease."""
    row = connection.execute(
        _RECORD,
        {
            "id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "name": name,
            **_columns(contents),
        },
    ).one_or_none()
    return row is not None


def _columns(contents: Contents) -> dict[str, object]:
    return {
        "interactions": contents.interactions,
        "size": contents.size,
        "complete": contents.complete,
        "digest": contents.digest,
        "content": contents.content,
    }
