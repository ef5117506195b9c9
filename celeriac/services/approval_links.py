"""Signed links: whoever holds one may answer one question, once, until it expires."""

import hashlib
import hmac
import secrets
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.domain.errors import LinkInvalidError

_PURPOSE = b"celeriac/approval-link/2"
_CONTENT = struct.Struct(">16sQI8s")
"""The question's id, the seconds since 1970 at which it expires, how often the links of the
question had been revoked before, and random bytes."""
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Link:
    """What a valid token says: its question, and how often links had been revoked before it."""

    approval_id: UUID
    links_revoked: int


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

    def token(self, approval_id: UUID, expires_at: datetime, *, links_revoked: int = 0) -> str:
        """Return a token for a question that works until then.

        `links_revoked` is the question's count of revocations: the next one makes the token void.
        """
        until = max(int(expires_at.timestamp()), 0)
        content = _CONTENT.pack(approval_id.bytes, until, links_revoked, secrets.token_bytes(8))
        return _text(content + self._mac(content))

    def read(self, token: str) -> Link:
        """Return what a token says. Raises LinkInvalidError, which does not name the reason."""
        try:
            raw = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (NotBase64Error, ValueError):
            raw = b""
        if _text(raw) != token:  # the last character may have bits that decoding ignores
            raise _invalid()
        content, mac = raw[: _CONTENT.size], raw[_CONTENT.size :]
        signed = len(raw) == _CONTENT.size + _MAC_BYTES
        if not (signed and hmac.compare_digest(mac, self._mac(content))):
            raise _invalid()
        approval_id, until, revoked, _ = _CONTENT.unpack(content)
        if self._now() >= until:
            raise _invalid()
        return Link(UUID(bytes=approval_id), revoked)

    def _mac(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _invalid() -> LinkInvalidError:
    return LinkInvalidError(
        "This link is not valid, or its time is over. Ask whoever sent it for another one."
    )
