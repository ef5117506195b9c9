"""Signed links: whoever holds one may answer one question, once, until it expires."""

import hashlib
import hmac
import secrets
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from celeriac.domain.errors import LinkInvalidError

_PURPOSE = b"celeriac/approval-link/1"
_CONTENT = struct.Struct(">16sQ8s")
"""The question's id, the seconds since 1970 at which it expires, and random bytes."""
_MAC_BYTES = 32


class ApprovalLinks:
    """Makes and reads the tokens of links.

    A token names its question and is signed (HMAC-SHA256) with a key of its own, derived from the
    installation's secret. Nothing of it is stored: that it works once is the question's doing,
    which is answered once.
    """

    def __init__(self, secret_key: str, now: Callable[[], float] = time.time) -> None:
        """Sign with a key that is derived from `secret_key`; `now` is the clock of questions.

        It returns the seconds since 1970.
        """
        self._now = now
        self._key = hmac.new(secret_key.encode(), _PURPOSE, hashlib.sha256).digest()

    def token(self, approval_id: UUID, expires_at: datetime) -> str:
        """Return a token for a question that works until then."""
        until = max(int(expires_at.timestamp()), 0)
        content = _CONTENT.pack(approval_id.bytes, until, secrets.token_bytes(8))
        return urlsafe_b64encode(content + self._mac(content)).rstrip(b"=").decode()

    def read(self, token: str) -> UUID:
        """Return the question of a token. Raises LinkInvalidError, which doesn't say why."""
        try:
            raw = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (NotBase64Error, ValueError):
            raw = b""
        content, mac = raw[: _CONTENT.size], raw[_CONTENT.size :]
        signed = len(raw) == _CONTENT.size + _MAC_BYTES
        if not (signed and hmac.compare_digest(mac, self._mac(content))):
            raise _invalid()
        approval_id, until, _ = _CONTENT.unpack(content)
        if self._now() >= until:
            raise _invalid()
        return UUID(bytes=approval_id)

    def _mac(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).digest()


def _invalid() -> LinkInvalidError:
    return LinkInvalidError(
        "This link is not valid, or its time is over. Ask whoever sent it for another one."
    )
