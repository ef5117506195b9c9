"""Whom keys belong to, and the lock on a workspace's catalog."""

from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db.locks import AdvisoryLock
from celeriac.db.schema.accounts import api_keys, users

_OWNERS = {
    "api_key": (api_keys.c.id, api_keys.c.user_id),
    "user": (users.c.id, users.c.id),
}


def owner_of(connection: Connection, resource_type: str, resource_id: UUID) -> UUID | None:
    """Return the user that a resource is about, or None if it does not exist."""
    key, owner = _OWNERS[resource_type]
    return connection.execute(select(owner).where(key == resource_id).limit(1)).scalar()


def has_others(connection: Connection, user_id: UUID) -> bool:
    """Whether there are users besides `user_id`."""
    query = select(users.c.id).where(users.c.id != user_id).limit(1)
    return connection.execute(query).first() is not None


_HOLD = text(
    f"SELECT pg_advisory_xact_lock({AdvisoryLock.CATALOG:d}, hashtext(CAST(:workspace_id AS text)))"
)


def hold_catalog(connection: Connection, workspace_id: UUID) -> None:
    """Lock a workspace's catalog until the transaction ends; other callers wait."""
    connection.execute(_HOLD, {"workspace_id": workspace_id})
