"""Users and API keys: authentication and management."""

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import accounts, audit
from celeriac.db.accounts import PresentedKey
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, ApiKey, Role, User
from celeriac.domain.audit import changes
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    NameTakenError,
    NotFoundError,
    UnauthenticatedError,
)
from celeriac.domain.paging import Page
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

KEY_SCHEME = "cel"
_PREFIX_BYTES = 6
_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key; `token` is shown once and stored nowhere."""

    key: ApiKey
    token: str


def key_hash(secret_key: str, token: str) -> str:
    """Return the keyed hash (HMAC-SHA256, hexadecimal) under which a key is stored."""
    return hmac.new(secret_key.encode(), token.encode(), hashlib.sha256).hexdigest()


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
            actor = Actor(user.id, user.name, user.role)
            if created is not None:
                audit.record(connection, actor, "user.create", [user.id])
            return self._add_key(connection, actor, user, name=key_name, role=Role.ADMIN)

    def create_user(self, actor: Actor, *, name: str, role: Role) -> User:
        """Create a user. Raises ForbiddenError, NameTakenError."""
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            user_id = accounts.add_user(connection, name=name, role=role)
            if user_id is None:
                raise NameTakenError(
                    f"There is a user {name!r} already; choose another name.", field="name"
                )
            audit.record(connection, actor, "user.create", [user_id], details={"role": role.value})
            user = _user(connection, user_id)
        logger.info("user.created", new_user_id=user_id, role=role.value)
        return user

    def user(self, actor: Actor, user_id: UUID) -> User:
        """Return the actor, or for an admin any user. Raises NotFoundError."""
        if not actor.sees_all and user_id != actor.user_id:
            raise NotFoundError("user", user_id)
        with self._database.autocommit() as connection:
            return _user(connection, user_id)

    def users(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[User]:
        """Return a page of all users. Raises ForbiddenError, CursorInvalidError."""
        actor.require(Role.ADMIN)
        return read_page(self._database, "users", cursor, limit, accounts.find_users)

    def change_user(
        self, actor: Actor, user_id: UUID, *, role: Role | None, disabled: bool | None
    ) -> User:
        """Change a user's role, or disable or enable them.

        Raises ForbiddenError, NotFoundError, and ConflictError for admins who would lock themselves
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
            audit.record(connection, actor, "user.change", [user_id], details=details)
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
        """Create a key for the actor, or as an admin for any user.

        The default role is the user's, the default expiry that of the actor's key; neither can be
        exceeded. Raises ForbiddenError, and NotFoundError for the user.
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
        """Return one of the actor's keys, or for an admin any key. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _key(connection, actor, key_id)

    def keys(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[ApiKey]:
        """Return a page of the actor's keys, or for an admin of all. Raises CursorInvalidError."""
        find = partial(accounts.find_keys, owner=actor.scope)
        return read_page(self._database, "keys", cursor, limit, find)

    def revoke_key(self, actor: Actor, key_id: UUID) -> None:
        """Revoke a key and all keys that were created with it, for ever.

        Revoking it again changes nothing. Raises NotFoundError, and ForbiddenError for a key with a
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
            audit.record(connection, actor, "api_key.revoke", revoked, details=details)
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
        audit.record(connection, actor, "api_key.create", [key_id], details=details)
        logger.info("api_key.created", key_id=key_id, role=role.value)
        return NewKey(_key(connection, actor, key_id), token)


def _user(connection: Connection, user_id: UUID, *, lock: bool = False) -> User:
    return present(accounts.user(connection, user_id, lock=lock), "user", user_id)


def _key(connection: Connection, actor: Actor, key_id: UUID) -> ApiKey:
    return present(accounts.key(connection, key_id, owner=actor.scope), "API key", key_id)


_SECONDS = 5.0
"""How long a valid key is cached, and a revocation takes to apply in other processes."""

_CACHED = 10_000
_PARTS = 3


class Authenticate:
    """Checks API keys, mostly from a short-lived cache. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        self._database = database
        self._secret_key = secret_key
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[Actor, float]] = {}

    def __call__(self, token: str, *, request_id: str | None) -> Actor:
        """Return the actor of `token`. Raises UnauthenticatedError saying what is wrong with it."""
        return self.cached(token, request_id=request_id) or replace(
            self._look_up(token), request_id=request_id
        )

    def cached(self, token: str, *, request_id: str | None) -> Actor | None:
        """Return the actor of `token` if it is cached; never waits."""
        actor, until = self._cached.get(key_hash(self._secret_key, token), (None, 0.0))
        if actor is None or until < time.monotonic():
            return None
        return replace(actor, request_id=request_id)

    def forget(self) -> None:
        """Clear the cache, so that changes made in this process apply at once."""
        with self._lock:
            self._cached.clear()

    def _look_up(self, token: str) -> Actor:
        parts, hashed = token.split("_"), key_hash(self._secret_key, token)
        key = None
        if (
            len(parts) == _PARTS
            and parts[0] == KEY_SCHEME
            and token.isascii()
            and token.isprintable()
        ):
            with self._database.autocommit() as connection:
                key = accounts.presented(connection, prefix=parts[1], digest=hashed)
        if key is None or not hmac.compare_digest(key.digest, hashed):
            raise UnauthenticatedError("The API key is unknown; check that it is complete.")
        _check_valid(key)
        role = key.user_role.limited_to(key.role)
        actor = Actor(
            key.user_id, key.user_name, role, key_id=key.id, key_expires_at=key.expires_at
        )
        with self._lock:
            if len(self._cached) >= _CACHED:
                self._cached.clear()
            self._cached[hashed] = actor, time.monotonic() + _SECONDS
        return actor


def _check_valid(key: PresentedKey) -> None:
    if key.revoked:
        raise UnauthenticatedError("The API key is revoked; make a new one.")
    if key.expired:
        raise UnauthenticatedError("The API key is expired; make a new one.")
    if key.user_disabled:
        raise UnauthenticatedError("The user of this API key is disabled; ask an admin.")
