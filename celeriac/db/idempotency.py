"""Idempotency keys: which resource an earlier request with the same key has made."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.models import idempotency_keys as table


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the earlier request with this key was and made."""

    fingerprint: str
    resource_id: UUID


def remember(
    connection: Connection,
    *,
    owner_id: UUID,
    key: str,
    fingerprint: str,
    resource_type: str,
    resource_id: UUID,
) -> Remembered | None:
    """Take the key for `resource_id`; return what took it before, or None if it is ours now.

    A concurrent request with the same key waits here until the first one commits or rolls back.
    """
    statement = (
        insert(table)
        .values(
            owner_id=owner_id,
            key=key,
            fingerprint=fingerprint,
            resource_type=resource_type,
            resource_id=resource_id,
        )
        .on_conflict_do_nothing()
        .returning(table.c.key)
    )
    if connection.execute(statement).first() is not None:
        return None
    earlier = connection.execute(
        select(table.c.fingerprint, table.c.resource_id).where(
            table.c.owner_id == owner_id, table.c.key == key
        )
    ).one()
    return Remembered(earlier.fingerprint, earlier.resource_id)
