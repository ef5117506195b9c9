"""Users and API keys."""

from datetime import datetime
from functools import partial
from typing import TypedDict
from uuid import UUID

import structlog

from celeriac.db import accounts, audit, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, ApiKey, Member, Role, User
from celeriac.domain.audit import changes
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    NameTakenError,
    NotFoundError,
)
from celeriac.domain.paging import Page
from celeriac.kit.json_types import JsonObject
from celeriac.services.keys import NewKey, add_key
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)


class Accounts:
    """Users and keys. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        self._database = database
        self._secret_key = secret_key

    def bootstrap_admin(self, name: str = "admin", *, key_name: str = "bootstrap") -> NewKey:
        """Create the administrator `name` if missing, and return a new key of theirs.

        For callers with access to the database: no permission is checked. Raises ConflictError if
        the user exists and is not an administrator or is disabled.
        """
        with self._database.transaction() as connection:
            created = accounts.add_user(connection, name=name, role=Role.ADMIN)
            user = accounts.user_named(connection, name)
            if user is None or user.role is not Role.ADMIN or user.disabled_at is not None:
                raise ConflictError(
                    f"The user {name!r} exists and is no active admin; choose another name."
                )
            actor = Actor(
                user.id,
                user.name,
                user.role,
                user.workspace_id,
                administrator=True,
                personal_key=True,
            )
            if created is not None:
                audit.record(connection, actor, "user.create", [user.id])
            return add_key(
                connection,
                self._secret_key,
                actor,
                user,
                user.workspace_id,
                name=key_name,
                role=Role.ADMIN,
            )

    def create_user(self, actor: Actor, *, name: str, role: Role) -> User:
        """Create a user with their personal workspace. Raises ForbiddenError, NameTakenError."""
        actor.require_administrator()
        with self._database.transaction() as connection:
            user_id = accounts.add_user(connection, name=name, role=role)
            if user_id is None:
                raise NameTakenError(
                    f"There is a user or a workspace {name!r} already; choose another name.",
                    field="name",
                )
            user = _user(connection, user_id)
            _record(connection, actor, "user.create", user, {"role": role.value})
        logger.info("user.created", new_user_id=user_id, role=role.value)
        return user

    def user(self, actor: Actor, user_id: UUID) -> User:
        """Return the actor, or for an administrator any user. Raises NotFoundError."""
        if not actor.administrator and user_id != actor.user_id:
            raise NotFoundError("user", user_id)
        with self._database.autocommit() as connection:
            return _user(connection, user_id)

    def users(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[User]:
        """Return a page of all users. Raises ForbiddenError, CursorInvalidError."""
        actor.require_administrator()
        return read_page(self._database, "users", cursor, limit, accounts.find_users)

    def change_user(
        self, actor: Actor, user_id: UUID, *, role: Role | None, disabled: bool | None
    ) -> User:
        """Change a user's role, or disable or enable them.

        Raises ForbiddenError, NotFoundError, and ConflictError for administrators who would lock
        themselves out.
        """
        actor.require_administrator()
        if user_id == actor.user_id and (disabled or role not in {None, Role.ADMIN}):
            raise ConflictError("You can't take your own rights away; ask another administrator.")
        with self._database.transaction() as connection:
            before = _user(connection, user_id, lock=True)
            accounts.change_user(connection, user_id, role=role, disabled=disabled)
            user = _user(connection, user_id)
            _record(connection, actor, "user.change", user, changes(before, user))
        logger.info("user.changed", changed_user_id=user_id)
        return user

    def create_key(
        self,
        actor: Actor,
        *,
        name: str,
        role: Role | None = None,
        user_id: UUID | None = None,
        workspace: str | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Create a key for the actor, or as an administrator for any user.

        `workspace` is a name or id; the default is the actor's workspace, or for another user their
        own. A key of a personal workspace makes keys for all workspaces of its user, any other
        key for its own workspace alone. The default role is the member's, the default expiry that
        of the actor's key; neither can be exceeded. Raises ForbiddenError, and NotFoundError for
        the user or the workspace.
        """
        limit = actor.key_expires_at
        if limit is not None and expires_at is not None and expires_at > limit:
            raise ForbiddenError(
                f"The key must expire no later than the key it is made with: {limit.isoformat()}.",
                field="expires_at",
            )
        with self._database.transaction() as connection:
            user = _user(connection, user_id or actor.user_id)
            if user.id != actor.user_id and not actor.administrator:
                raise NotFoundError("user", user.id)
            member = _membership(connection, actor, user, workspace)
            most = member.role.limited_to(actor.limit)
            wanted = role or most
            if not most.includes(wanted):
                raise ForbiddenError(
                    f"A key can't have the role {wanted}: it is more than the user's or your own.",
                    field="role",
                )
            return add_key(
                connection,
                self._secret_key,
                actor,
                user,
                member.workspace_id,
                name=name,
                role=wanted,
                expires_at=expires_at or limit,
            )

    def key(self, actor: Actor, key_id: UUID) -> ApiKey:
        """Return a key that the actor may see; see `keys`. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _key(connection, actor, key_id)

    def keys(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[ApiKey]:
        """Return a page of the actor's keys, or for an administrator of all.

        A key of another than the personal workspace sees only those of its own workspace. Raises
        CursorInvalidError.
        """
        find = partial(accounts.find_keys, **_visible_keys(actor))
        return read_page(self._database, "keys", cursor, limit, find)

    def revoke_key(self, actor: Actor, key_id: UUID) -> None:
        """Revoke a key and all keys that were created with it, for ever.

        Revoking it again changes nothing. Raises NotFoundError, and ForbiddenError for a key with a
        higher role than the actor's key allows.
        """
        with self._database.transaction() as connection:
            key = _key(connection, actor, key_id)
            if not actor.limit.includes(key.role):
                raise ForbiddenError(
                    f"The key has the role {key.role}, yours is {actor.limit}: revoke it with a "
                    "key of that role.",
                    required=key.role.value,
                )
            revoked = accounts.revoke_key(connection, key_id)
            details = {"revoked_with": str(key_id)}
            for each, workspace_id in revoked.items():
                audit.record(
                    connection,
                    actor,
                    "api_key.revoke",
                    [each],
                    details=details,
                    workspace_id=workspace_id,
                )
        logger.info("api_key.revoked", key_id=key_id)


def _user(connection: Connection, user_id: UUID, *, lock: bool = False) -> User:
    return present(accounts.user(connection, user_id, lock=lock), "user", user_id)


def _record(
    connection: Connection, actor: Actor, action: str, user: User, details: JsonObject
) -> None:
    audit.record(
        connection, actor, action, [user.id], details=details, workspace_id=user.workspace_id
    )


def _key(connection: Connection, actor: Actor, key_id: UUID) -> ApiKey:
    found = accounts.key(connection, key_id, **_visible_keys(actor))
    return present(found, "API key", key_id)


class _KeyScope(TypedDict):
    owner: UUID | None
    workspace: UUID | None


def _visible_keys(actor: Actor) -> _KeyScope:
    """Return whose keys the actor sees, and in which workspace; None for all."""
    if actor.administrator:
        return {"owner": None, "workspace": None}
    return {"owner": actor.user_id, "workspace": None if actor.personal_key else actor.workspace_id}


def _membership(connection: Connection, actor: Actor, user: User, workspace: str | None) -> Member:
    """Return a user's membership in the workspace of their new key. Raises NotFoundError."""
    if workspace is not None:
        found = workspaces.find_one(connection, workspace)
        workspace_id = None if found is None else found.id
    else:
        own = user.id == actor.user_id
        workspace_id = actor.workspace_id if own else user.workspace_id
    if actor.administrator or actor.personal_key or workspace_id == actor.workspace_id:
        member = workspace_id and workspaces.member(connection, workspace_id, user.id, lock=True)
        if member:
            return member
    raise NotFoundError("workspace", workspace or user.workspace_id)
