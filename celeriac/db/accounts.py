"""Users, with their personal workspaces, and their API keys."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, given, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import api_keys, memberships, users, workspaces
from celeriac.domain.accounts import ApiKey, Role, User
from celeriac.kit.ids import uuid7

_USER = columns(User, users, workspace_id=workspaces.c.id).join_from(
    users, workspaces, workspaces.c.personal_of == users.c.id
)
_user = reader(User)
_KEY = (
    columns(ApiKey, api_keys, user_name=users.c.name, workspace_name=workspaces.c.name)
    .join_from(api_keys, users, users.c.id == api_keys.c.user_id)
    .join(workspaces, workspaces.c.id == api_keys.c.workspace_id)
)
_key = reader(ApiKey)

_PRESENTED = text("""
WITH touched AS (
    UPDATE api_keys SET last_used_at = now()
    WHERE prefix = :prefix AND digest = :digest
      AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
)
SELECT k.id, k.digest, k.role, k.unlimited, k.revoked_at IS NOT NULL AS revoked, k.expires_at,
       coalesce(k.expires_at <= now(), false) AS expired, k.user_id, u.name AS user_name,
       u.role AS user_role, u.disabled_at IS NOT NULL AS user_disabled,
       k.workspace_id AS of_workspace_id, w.personal_of IS NOT NULL AS personal,
       coalesce(CAST(:workspace_id AS uuid), k.workspace_id) AS workspace_id, m.role AS member_role
FROM api_keys k
JOIN users u ON u.id = k.user_id
JOIN workspaces w ON w.id = k.workspace_id
-- a member who was added while the workspace was deleted is none
LEFT JOIN workspaces p
       ON p.id = coalesce(CAST(:workspace_id AS uuid), k.workspace_id) AND p.deleted_at IS NULL
LEFT JOIN memberships m ON m.workspace_id = p.id AND m.user_id = k.user_id
WHERE k.prefix = :prefix
""")


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """The key that a caller presented, with its user, both in their current state."""

    id: UUID
    digest: str
    role: Role
    unlimited: bool
    """Whether it was made with all rights of its user."""
    revoked: bool
    expires_at: datetime | None
    expired: bool
    user_id: UUID
    user_name: str
    user_role: Role
    user_disabled: bool
    of_workspace_id: UUID
    """The workspace of the key."""
    personal: bool
    """Whether that is the user's own."""
    workspace_id: UUID
    """The workspace that was asked for, or else that of the key."""
    member_role: Role | None
    """The role there; None if the user is no member of it."""


_presented = reader(PresentedKey)


def presented(
    connection: Connection, *, prefix: str, digest: str, workspace_id: UUID | None
) -> PresentedKey | None:
    """Return the key with this public prefix, or None; the caller compares the digests.

    With its user's role in `workspace_id` (None: in the workspace of the key). Updates the time of
    last use, to the minute.
    """
    parameters = {"prefix": prefix, "digest": digest, "workspace_id": workspace_id}
    row = connection.execute(_PRESENTED, parameters).one_or_none()
    return None if row is None else _presented(row)


# the workspace first: its name is the user's, and the users and workspaces share their names
_ADD_USER = text("""
WITH own AS (
    INSERT INTO workspaces (id, name, personal_of) VALUES (:workspace_id, :name, :id)
    ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING
    RETURNING id, personal_of
), person AS (
    INSERT INTO users (id, name, role) SELECT personal_of, :name, :role FROM own
)
INSERT INTO memberships (workspace_id, user_id, role)
SELECT id, personal_of, :role FROM own
RETURNING user_id
""")


def add_user(connection: Connection, *, name: str, role: Role) -> UUID | None:
    """Insert a user with their personal workspace; return their id, None if the name is taken."""
    parameters = {"id": uuid7(), "workspace_id": uuid7(), "name": name, "role": role.value}
    return connection.execute(_ADD_USER, parameters).scalar_one_or_none()


def user(connection: Connection, user_id: UUID, *, lock: bool = False) -> User | None:
    """Return a user or None; `lock` locks the row until the transaction ends."""
    query = _USER.where(users.c.id == user_id)
    return read_one(connection, query.with_for_update(of=users) if lock else query, _user)


def user_named(connection: Connection, name: str) -> User | None:
    """Return the user with this name or None."""
    return read_one(connection, _USER.where(users.c.name == name), _user)


def find_users(connection: Connection, *, before: UUID | None, limit: int) -> list[User]:
    """Return up to `limit` users with smaller ids than `before`, the newest first."""
    return read_all(connection, newest(_USER, users.c.id, before=before, limit=limit), _user)


def change_user(
    connection: Connection, user_id: UUID, *, role: Role | None, disabled: bool | None
) -> None:
    """Change a user's role, or disable or enable the user; None keeps the stored value.

    The role is also that in their personal workspace.
    """
    values: dict[str, Any] = {}
    if role is not None:
        values["role"] = role.value
    if disabled is not None:
        values["disabled_at"] = func.coalesce(users.c.disabled_at, func.now()) if disabled else None
    if values:
        connection.execute(update(users).where(users.c.id == user_id).values(values))
    if role is not None:
        own = select(workspaces.c.id).where(workspaces.c.personal_of == user_id).scalar_subquery()
        query = update(memberships).where(
            memberships.c.workspace_id == own, memberships.c.user_id == user_id
        )
        connection.execute(query.values(role=role.value))


def add_key(
    connection: Connection,
    *,
    user_id: UUID,
    workspace_id: UUID,
    name: str,
    prefix: str,
    digest: str,
    role: Role,
    unlimited: bool,
    expires_at: datetime | None,
    parent_id: UUID | None,
) -> UUID:
    """Insert a key, of which only the keyed hash is stored, and return its id."""
    key_id = uuid7()
    connection.execute(
        insert(api_keys).values(
            id=key_id,
            user_id=user_id,
            workspace_id=workspace_id,
            name=name,
            prefix=prefix,
            digest=digest,
            role=role.value,
            unlimited=unlimited,
            expires_at=expires_at,
            parent_id=parent_id,
        )
    )
    return key_id


def key(
    connection: Connection, key_id: UUID, *, owner: UUID | None, workspace: UUID | None
) -> ApiKey | None:
    """Return a key of `owner` (None: of anyone) in `workspace` (None: in any), or None."""
    query = _KEY.where(api_keys.c.id == key_id)
    query = given(query, (api_keys.c.user_id, owner), (api_keys.c.workspace_id, workspace))
    return read_one(connection, query, _key)


def find_keys(
    connection: Connection,
    *,
    owner: UUID | None,
    workspace: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[ApiKey]:
    """Return up to `limit` keys with smaller ids than `before`, the newest first."""
    query = given(_KEY, (api_keys.c.user_id, owner), (api_keys.c.workspace_id, workspace))
    return read_all(connection, newest(query, api_keys.c.id, before=before, limit=limit), _key)


_REVOKE = text("""
WITH RECURSIVE family AS (
    SELECT id FROM api_keys WHERE id = :id
    UNION
    SELECT k.id FROM api_keys k JOIN family ON k.parent_id = family.id
)
UPDATE api_keys SET revoked_at = now()
WHERE id IN (SELECT id FROM family) AND revoked_at IS NULL
RETURNING id, workspace_id
""")


def revoke_key(connection: Connection, key_id: UUID) -> dict[UUID, UUID]:
    """Revoke a key and all keys made with it; return the workspaces of those newly revoked."""
    return {row.id: row.workspace_id for row in connection.execute(_REVOKE, {"id": key_id})}
