"""Authenticate: from the key that a caller shows to who they are."""

import hmac
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.db import accounts
from celeriac.db.accounts import PresentedKey
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import UnauthenticatedError
from celeriac.services.accounts import KEY_SCHEME, digest

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
        hashed = digest(self._secret_key, token)
        known = self._known.get(hashed)
        if known is None or known.until < time.monotonic():
            known = self._look_up(token, hashed)
        return known.actor(request_id)

    def remembered(self, token: str, *, request_id: str | None) -> Actor | None:
        """Return who shows `token` if it was found good in the last seconds; never waits."""
        known = self._known.get(digest(self._secret_key, token))
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
