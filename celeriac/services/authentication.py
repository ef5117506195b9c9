"""Authentication: the actor of an API key."""

import hmac
import threading
import time
from dataclasses import replace
from uuid import UUID

from celeriac.db import accounts, workspaces
from celeriac.db.accounts import PresentedKey
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import UnauthenticatedError, WorkspaceDeniedError
from celeriac.kit.tokens import key_hash, prefix_of
from celeriac.services.keys import KEY_SCHEME

_SECONDS = 5.0
"""How long a valid key is cached, and a revocation takes to apply in other processes."""

_CACHED = 10_000


class Authenticate:
    """Checks API keys, mostly from a short-lived cache. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        self._database = database
        self._secret_key = secret_key
        self._lock = threading.Lock()
        self._cached: dict[tuple[str, str | None], tuple[Actor, float]] = {}
        self.generation = 0
        """Counts the calls of `forget`. What was looked up before the last one is not used."""

    def __call__(
        self, token: str, workspace: str | None = None, *, request_id: str | None
    ) -> Actor:
        """Return the actor of `token`. Raises UnauthenticatedError saying what is wrong with it.

        In `workspace`, a name or an id: one of the key's user if the key is of their personal
        workspace. Without one the actor is in the workspace of the key.
        """
        return self.cached(token, workspace, request_id=request_id) or replace(
            self._look_up(token, workspace), request_id=request_id
        )

    def cached(
        self, token: str, workspace: str | None = None, *, request_id: str | None
    ) -> Actor | None:
        """Return the actor of `token` if it is cached; never waits."""
        known = (key_hash(self._secret_key, token), workspace)
        actor, until = self._cached.get(known, (None, 0.0))
        if actor is None or until < time.monotonic():
            return None
        return replace(actor, request_id=request_id)

    def forget(self) -> None:
        """Clear the cache, so that changes made in this process apply at once."""
        with self._lock:
            self.generation += 1
            self._cached.clear()

    def _look_up(self, token: str, workspace: str | None) -> Actor:
        generation = self.generation
        prefix, hashed = prefix_of(KEY_SCHEME, token), key_hash(self._secret_key, token)
        key = None
        if prefix is not None:
            with self._database.autocommit() as connection:
                place = None if workspace is None else _place(connection, workspace)
                key = accounts.presented(
                    connection, prefix=prefix, digest=hashed, workspace_id=place
                )
        if key is None or not hmac.compare_digest(key.digest, hashed):
            raise UnauthenticatedError("The API key is unknown; check that it is complete.")
        actor = _actor(key)
        with self._lock:
            if len(self._cached) >= _CACHED:
                self._cached.clear()
            if generation == self.generation:
                self._cached[hashed, workspace] = actor, time.monotonic() + _SECONDS
        return actor


_NOWHERE = UUID(int=0)


def _place(connection: Connection, workspace: str) -> UUID:
    """Return the id of a workspace, for an unknown one an id of which nobody is a member."""
    found = workspaces.find_one(connection, workspace)
    return _NOWHERE if found is None else found.id


def _actor(key: PresentedKey) -> Actor:
    """Return the actor of a key. Raises UnauthenticatedError if it is not valid."""
    if key.revoked:
        raise UnauthenticatedError("The API key is revoked; make a new one.")
    if key.expired:
        raise UnauthenticatedError("The API key is expired; make a new one.")
    if key.user_disabled:
        raise UnauthenticatedError("The user of this API key is disabled; ask an administrator.")
    other = key.workspace_id != key.of_workspace_id
    if key.member_role is None or (other and not key.personal):
        refused = WorkspaceDeniedError if other else UnauthenticatedError
        raise refused(
            "The API key gives no access to this workspace: its user is no member of it"
            f"{'' if key.personal or not other else ', or the key is of another one'}."
        )
    # who has the whole rights of a user has them in all workspaces of the user
    whole = key.unlimited and key.role.includes(key.user_role)
    limit = Role.ADMIN if whole else key.role
    return Actor(
        key.user_id,
        key.user_name,
        key.member_role.limited_to(limit),
        key.workspace_id,
        administrator=key.personal and key.user_role is Role.ADMIN and limit is Role.ADMIN,
        personal_key=key.personal,
        limit=limit,
        key_id=key.id,
        key_expires_at=key.expires_at,
    )
