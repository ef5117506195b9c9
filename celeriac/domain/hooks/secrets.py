"""The tokens and secrets of hooks: derived from the installation's secret, or sealed with it."""

import hashlib
import hmac
import os
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from celeriac.domain.errors import ConfigurationError
from celeriac.domain.hooks.model import StoredSecret

_TOKENS = b"celeriac/hook-tokens/1"
_SECRETS = b"celeriac/hook-secrets/1"
_SEALS = b"celeriac/hook-seals/1"

_ID_BYTES = 16
_MAC_BYTES = 16
TOKEN_CHARACTERS = 43
"""The length of a token: 32 bytes in base64 without padding."""

_NONCE_BYTES = 12
_NUMBER_BYTES = 4


class HookKeys:
    """Makes and reads tokens and secrets. Safe to share between threads.

    A token has the hook's id and a mark that only this installation can make, so nothing is looked
    up for tokens that somebody guesses. Secrets that are made here are derived from the hook's id
    and a number, and stored nowhere. Given ones are stored sealed (AES-256-GCM).
    """

    def __init__(self, secret_key: str) -> None:
        self._tokens, self._secrets, seals = (
            hmac.digest(secret_key.encode(), purpose, hashlib.sha256)
            for purpose in (_TOKENS, _SECRETS, _SEALS)
        )
        self._cipher = AESGCM(seals)

    def token(self, hook_id: UUID) -> str:
        """Return the token of a hook, the last part of its URL."""
        raw = hook_id.bytes + self._mark(hook_id.bytes)
        return urlsafe_b64encode(raw).rstrip(b"=").decode()

    def hook_id(self, token: str) -> UUID | None:
        """Return the hook that a token names; None if this installation has not made it."""
        try:
            raw = urlsafe_b64decode(token.encode("ascii") + b"=")
        except ValueError:  # as are the faults of base64 and of characters
            return None
        content, mark = raw[:_ID_BYTES], raw[_ID_BYTES:]
        if not hmac.compare_digest(mark, self._mark(content)):
            return None
        hook_id = UUID(bytes=content)
        # decoding ignores what is no base64, and some bits of the last character
        return hook_id if token == self.token(hook_id) else None

    def _mark(self, content: bytes) -> bytes:
        return hmac.digest(self._tokens, content, hashlib.sha256)[:_MAC_BYTES]

    def secret(self, hook_id: UUID, stored: StoredSecret) -> str:
        """Return a secret of a hook.

        Raises ConfigurationError if it was sealed with another `CELERIAC_SECRET_KEY`.
        """
        name = _named(hook_id, stored.number)
        if stored.sealed is None:
            digest = hmac.digest(self._secrets, name, hashlib.sha256)
            return "whsec_" + b64encode(digest).decode()
        nonce, text = stored.sealed[:_NONCE_BYTES], stored.sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, text, name).decode()
        except InvalidTag as error:
            raise ConfigurationError(
                "A hook's secret was stored with another CELERIAC_SECRET_KEY; rotate it."
            ) from error

    def sealed(self, hook_id: UUID, number: int, secret: str) -> bytes:
        """Return what is stored of a given secret."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), _named(hook_id, number))


def _named(hook_id: UUID, number: int) -> bytes:
    return hook_id.bytes + number.to_bytes(_NUMBER_BYTES)
