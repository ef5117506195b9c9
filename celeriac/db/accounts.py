"""Users and their API keys."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, text, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.schema import api_keys, users
from celeriac.domain.accounts import ApiKey, Role, User
from celeriac.kit.ids import uuid7

_USER = select(users.c.id, users.c.name, users.c.role, users.c.created_at, users.c.disabled_at)
_KEY = select(
    api_keys.c.id,
    api_keys.c.user_id,
    users.c.name.label("user_name"),
    api_keys.c.name,
    api_keys.c.prefix,
    api_keys.c.role,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.revoked_at,
    api_keys.c.last_used_at,
).join_from(api_keys, users, users.c.id == api_keys.c.user_id)

_PRESENTED = text("""
WITH touched AS (
    UPDATE api_keys SET last_used_at = now()
    WHERE prefix = :prefix AND digest = :digest
      AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
)
SELECT k.id, k.digest, k.role AS key_role, k.revoked_at IS NOT NULL AS revoked,
       k.expires_at, k.expires_at <= now() AS expired, k.user_id, u.name, u.role,
       u.disabled_at IS NOT NULL AS disabled
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.prefix = :prefix
""")


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """The key that a caller has shown, and its user, as they stand now."""

    id: UUID
    digest: str
    role: Role
    revoked: bool
    expires_at: datetime | None
    expired: bool
    user_id: UUID
    user_name: str
    user_role: Role
    user_disabled: bool


def presented(connection: Connection, *, prefix: str, digest: str) -> PresentedKey | None:
    """Return the key with this public prefix, or None; the caller compares the digests.

    Notes that the key is in use, to the minute.
    """
    row = connection.execute(_PRESENTED, {"prefix": prefix, "digest": digest}).one_or_none()
    if row is None:
        return None
    return PresentedKey(
        id=row.id,
        digest=row.digest,
        role=Role(row.key_role),
        revoked=row.revoked,
        expires_at=row.expires_at,
        expired=bool(row.expired),
        user_id=row.user_id,
        user_name=row.name,
        user_role=Role(row.role),
        user_disabled=row.disabled,
    )


def add_user(connection: Connection, *, name: str, role: Role) -> UUID | None:
    """Insert a user and return the id, or None where the name is taken."""
    statement = (
        insert(users)
        .values(id=uuid7(), name=name, role=role.value)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(users.c.id)
    )
    return connection.execute(statement).scalar_one_or_none()


def user(connection: Connection, user_id: UUID, *, lock: bool = False) -> User | None:
    """Return a user or None; `lock` holds the row for a change."""
    query = _USER.where(users.c.id == user_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _user(row)


def user_named(connection: Connection, name: str) -> User | None:
    """Return the user with this name or None."""
    row = connection.execute(_USER.where(users.c.name == name)).one_or_none()
    return None if row is None else _user(row)


def find_users(connection: Connection, *, before: UUID | None, limit: int) -> list[User]:
    """Return up to `limit` users made before the user `before`, the newest first."""
    query = _USER if before is None else _USER.where(users.c.id < before)
    return [
        _user(row) for row in connection.execute(query.order_by(users.c.id.desc()).limit(limit))
    ]


def change_user(
    connection: Connection, user_id: UUID, *, role: Role | None, disabled: bool | None
) -> None:
    """Give a user another role, or disable or enable them; None keeps."""
    values: dict[str, Any] = {}
    if role is not None:
        values["role"] = role.value
    if disabled is not None:
        values["disabled_at"] = func.coalesce(users.c.disabled_at, func.now()) if disabled else None
    if values:
        connection.execute(update(users).where(users.c.id == user_id).values(values))


def add_key(
    connection: Connection,
    *,
    user_id: UUID,
    name: str,
    prefix: str,
    digest: str,
    role: Role,
    expires_at: datetime | None,
    parent_id: UUID | None,
) -> UUID:
    """Insert a key, of which only the keyed hash is stored, and return its id."""
    key_id = uuid7()
    connection.execute(
        plain_insert(api_keys).values(
            id=key_id,
            user_id=user_id,
            name=name,
            prefix=prefix,
            digest=digest,
            role=role.value,
            expires_at=expires_at,
            parent_id=parent_id,
        )
    )
    return key_id


def key(connection: Connection, key_id: UUID, *, owner: UUID | None) -> ApiKey | None:
    """Return a key of `owner` (None: anybody's) or None."""
    query = _KEY.where(api_keys.c.id == key_id)
    if owner is not None:
        query = query.where(api_keys.c.user_id == owner)
    row = connection.execute(query).one_or_none()
    return None if row is None else _key(row)


def find_keys(
    connection: Connection, *, owner: UUID | None, before: UUID | None, limit: int
) -> list[ApiKey]:
    """Return up to `limit` keys made before the key `before`, the newest first."""
    query = _KEY
    if owner is not None:
        query = query.where(api_keys.c.user_id == owner)
    if before is not None:
        query = query.where(api_keys.c.id < before)
    rows = connection.execute(query.order_by(api_keys.c.id.desc()).limit(limit))
    return [_key(row) for row in rows]


_REVOKE = text("""
WITH RECURSIVE family AS (
    SELECT id FROM api_keys WHERE id = :id
    UNION
    SELECT k.id FROM api_keys k JOIN family ON k.parent_id = family.id
)
UPDATE api_keys SET revoked_at = now()
WHERE id IN (SELECT id FROM family) AND revoked_at IS NULL
RETURNING id
""")


def revoke_key(connection: Connection, key_id: UUID) -> list[UUID]:
    """Revoke a key and all keys that were made with it; return those that were not revoked yet."""
    return list(connection.execute(_REVOKE, {"id": key_id}).scalars())


def _user(row: Row[*tuple[Any, ...]]) -> User:
    return User(row.id, row.name, Role(row.role), row.created_at, row.disabled_at)


def _key(row: Row[*tuple[Any, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        user_id=row.user_id,
        user_name=row.user_name,
        name=row.name,
        prefix=row.prefix,
        role=Role(row.role),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
