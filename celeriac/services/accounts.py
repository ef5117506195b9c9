"""Users and API keys: authentication and management."""

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import accounts, audit
from celeriac.db.accounts import PresentedKey
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, ApiKey, Role, User
from celeriac.domain.audit import changes
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    NameTakenError,
    NotFoundError,
    UnauthenticatedError,
)
from celeriac.domain.paging import Page, read_cursor

logger = structlog.get_logger(__name__)

KEY_SCHEME = "cel"
_PREFIX_BYTES = 6
_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `token` is shown this once and stored nowhere."""

    key: ApiKey
    token: str


def key_hash(secret_key: str, token: str) -> str:
    """Return the keyed hash (HMAC-SHA256, hexadecimal) under which a key is stored."""
    return hmac.new(secret_key.encode(), token.encode(), hashlib.sha256).hexdigest()


class Accounts:
    """Users and keys. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        """Work on `database`; `secret_key` keys the hashes of API keys."""
        self._database = database
        self._secret_key = secret_key

    def bootstrap_admin(self, name: str = "admin", *, key_name: str = "bootstrap") -> NewKey:
        """Make sure that there is an administrator `name` and return a new key for them.

        For whoever has the database itself: it asks for no permission. Raises ConflictError where
        a user of that name is no administrator or is disabled.
        """
        with self._database.transaction() as connection:
            created = accounts.add_user(connection, name=name, role=Role.ADMIN)
            user = accounts.user_named(connection, name)
            if user is None or user.role is not Role.ADMIN or user.disabled_at is not None:
                raise ConflictError(
                    f"The user {name!r} exists and is no active admin; choose another name."
                )
            actor = Actor(user.id, user.name, user.role)
            if created is not None:
                audit.record(connection, actor, "user.create", "user", [user.id])
            return self._add_key(connection, actor, user, name=key_name, role=Role.ADMIN)

    def create_user(self, actor: Actor, *, name: str, role: Role) -> User:
        """Make a user. Raises ForbiddenError, NameTakenError."""
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            user_id = accounts.add_user(connection, name=name, role=role)
            if user_id is None:
                raise NameTakenError(
                    f"There is a user {name!r} already; choose another name.", field="name"
                )
            audit.record(
                connection, actor, "user.create", "user", [user_id], details={"role": role.value}
            )
            user = _user(connection, user_id)
        logger.info("user.created", new_user_id=user_id, role=role.value)
        return user

    def user(self, actor: Actor, user_id: UUID) -> User:
        """Return a user: oneself, or for an admin anybody. Raises NotFoundError."""
        if not actor.sees_all and user_id != actor.user_id:
            raise NotFoundError("user", user_id)
        with self._database.statement() as connection:
            return _user(connection, user_id)

    def users(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[User]:
        """Return a page of all users. Raises ForbiddenError, CursorInvalidError."""
        actor.require(Role.ADMIN)
        before = read_cursor("users", cursor)
        with self._database.statement() as connection:
            found = accounts.find_users(connection, before=before, limit=limit + 1)
        return Page.cut(found, limit=limit, kind="users", key=lambda user: user.id)

    def change_user(
        self, actor: Actor, user_id: UUID, *, role: Role | None, disabled: bool | None
    ) -> User:
        """Change a user's role, or disable or enable them.

        Raises ForbiddenError, NotFoundError, and ConflictError where admins would lock themselves
        out.
        """
        actor.require(Role.ADMIN)
        if user_id == actor.user_id and (disabled or role not in {None, Role.ADMIN}):
            raise ConflictError("You can't take your own rights away; ask another admin.")
        with self._database.transaction() as connection:
            before = _user(connection, user_id, lock=True)
            accounts.change_user(connection, user_id, role=role, disabled=disabled)
            user = _user(connection, user_id)
            details = changes(before, user)
            audit.record(connection, actor, "user.change", "user", [user_id], details=details)
        logger.info("user.changed", changed_user_id=user_id)
        return user

    def create_key(
        self,
        actor: Actor,
        *,
        name: str,
        role: Role | None = None,
        user_id: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key for oneself, or as an admin for anybody.

        `role` may be less than the user's own, which is the default. A key that expires makes keys
        that expire no later, which is their default. Raises ForbiddenError for more than the actor
        has, NotFoundError for the user.
        """
        limit = actor.key_expires_at
        if limit is not None and expires_at is not None and expires_at > limit:
            raise ForbiddenError(
                f"The key must expire no later than the key it is made with: {limit.isoformat()}.",
                field="expires_at",
            )
        with self._database.transaction() as connection:
            user = _user(connection, user_id or actor.user_id)
            if user.id != actor.user_id and not actor.sees_all:
                raise NotFoundError("user", user.id)
            wanted = role or user.role.limited_to(actor.role)
            if not (user.role.includes(wanted) and actor.role.includes(wanted)):
                raise ForbiddenError(
                    f"A key can't have the role {wanted}: it is more than the user's or your own.",
                    field="role",
                )
            return self._add_key(
                connection, actor, user, name=name, role=wanted, expires_at=expires_at or limit
            )

    def key(self, actor: Actor, key_id: UUID) -> ApiKey:
        """Return one of the actor's keys, or for an admin anybody's. Raises NotFoundError."""
        with self._database.statement() as connection:
            return _key(connection, actor, key_id)

    def keys(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[ApiKey]:
        """Return a page of the actor's keys, or for an admin of all. Raises CursorInvalidError."""
        before = read_cursor("keys", cursor)
        with self._database.statement() as connection:
            found = accounts.find_keys(
                connection, owner=actor.scope, before=before, limit=limit + 1
            )
        return Page.cut(found, limit=limit, kind="keys", key=lambda key: key.id)

    def revoke_key(self, actor: Actor, key_id: UUID) -> None:
        """Make a key useless for ever, and all keys that were made with it.

        Revoking it again changes nothing. Raises NotFoundError, and ForbiddenError for a key of a
        higher role than the actor's.
        """
        with self._database.transaction() as connection:
            key = _key(connection, actor, key_id)
            if not actor.role.includes(key.role):
                raise ForbiddenError(
                    f"The key has the role {key.role}, yours is {actor.role}: revoke it with a key "
                    "of that role.",
                    required=key.role.value,
                )
            revoked = accounts.revoke_key(connection, key_id)
            details = {"revoked_with": str(key_id)}
            audit.record(connection, actor, "api_key.revoke", "api_key", revoked, details=details)
        logger.info("api_key.revoked", key_id=key_id)

    def _add_key(
        self,
        connection: Connection,
        actor: Actor,
        user: User,
        *,
        name: str,
        role: Role,
        expires_at: datetime | None = None,
    ) -> NewKey:
        prefix = secrets.token_hex(_PREFIX_BYTES)
        token = f"{KEY_SCHEME}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
        key_id = accounts.add_key(
            connection,
            user_id=user.id,
            name=name,
            prefix=prefix,
            digest=key_hash(self._secret_key, token),
            role=role,
            expires_at=expires_at,
            parent_id=actor.key_id,
        )
        details = {
            "user_id": str(user.id),
            "role": role.value,
            "prefix": prefix,
            "expires_at": expires_at and expires_at.isoformat(),
            "made_with": actor.key_id and str(actor.key_id),
        }
        audit.record(connection, actor, "api_key.create", "api_key", [key_id], details=details)
        logger.info("api_key.created", key_id=key_id, role=role.value)
        return NewKey(_key(connection, actor, key_id), token)


def _user(connection: Connection, user_id: UUID, *, lock: bool = False) -> User:
    user = accounts.user(connection, user_id, lock=lock)
    if user is None:
        raise NotFoundError("user", user_id)
    return user


def _key(connection: Connection, actor: Actor, key_id: UUID) -> ApiKey:
    key = accounts.key(connection, key_id, owner=actor.scope)
    if key is None:
        raise NotFoundError("API key", key_id)
    return key


_SECONDS = 5.0
"""How long a key that was found good is believed; so long a revocation may take elsewhere."""

_CACHED = 10_000
_PARTS = 3


@dataclass(frozen=True, slots=True)
class _Known:
    user_id: UUID
    name: str
    role: Role
    key_id: UUID
    key_expires_at: datetime | None
    until: float

    def actor(self, request_id: str | None) -> Actor:
        """Return who shows the key."""
        return Actor(
            self.user_id, self.name, self.role, request_id, self.key_id, self.key_expires_at
        )


class Authenticate:
    """Checks API keys, mostly from a short memory. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        """Look keys up in `database`; `secret_key` keys their hashes."""
        self._database = database
        self._secret_key = secret_key
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def __call__(self, token: str, *, request_id: str | None) -> Actor:
        """Return who shows `token`; raises UnauthenticatedError saying what is wrong with it."""
        hashed = key_hash(self._secret_key, token)
        known = self._known.get(hashed)
        if known is None or known.until < time.monotonic():
            known = self._look_up(token, hashed)
        return known.actor(request_id)

    def remembered(self, token: str, *, request_id: str | None) -> Actor | None:
        """Return who shows `token` if it was found good in the last seconds; never waits."""
        known = self._known.get(key_hash(self._secret_key, token))
        if known is None or known.until < time.monotonic():
            return None
        return known.actor(request_id)

    def forget(self) -> None:
        """Drop the memory, so that changes made in this process hold at once."""
        with self._lock:
            self._known.clear()

    def _look_up(self, token: str, hashed: str) -> _Known:
        parts = token.split("_")
        key = None
        if (
            len(parts) == _PARTS
            and parts[0] == KEY_SCHEME
            and token.isascii()
            and token.isprintable()
        ):
            with self._database.statement() as connection:
                key = accounts.presented(connection, prefix=parts[1], digest=hashed)
        if key is None or not hmac.compare_digest(key.digest, hashed):
            raise UnauthenticatedError("The API key is unknown; check that it is complete.")
        _refuse_spent(key)
        known = _Known(
            key.user_id,
            key.user_name,
            key.user_role.limited_to(key.role),
            key.id,
            key.expires_at,
            time.monotonic() + _SECONDS,
        )
        with self._lock:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[hashed] = known
        return known


def _refuse_spent(key: PresentedKey) -> None:
    if key.revoked:
        raise UnauthenticatedError("The API key is revoked; make a new one.")
    if key.expired:
        raise UnauthenticatedError("The API key is expired; make a new one.")
    if key.user_disabled:
        raise UnauthenticatedError("The user of this API key is disabled; ask an admin.")
