"""Encrypts the values of stored secrets (AES-256-GCM), with keys that can be replaced."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from celeriac.domain.errors import ConfigurationError

SETTING = "CELERIAC_ENCRYPTION_KEYS"

_PURPOSE = b"celeriac/stored-secrets/1"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_NUMBER_BYTES = 4


class SecretCipher:
    """Encrypts with the first of its keys, and decrypts with each. Safe to share between threads.

    What is stored begins with 4 bytes that name the key, then the nonce; it is bound to the id and
    the version of its secret, so that it can't be used for another one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` are texts of 32 characters or more, at least one."""
        derived = [hmac.digest(key.encode(), _PURPOSE, hashlib.sha256) for key in keys]
        named = [(hashlib.sha256(key).digest()[:_KEY_ID_BYTES], AESGCM(key)) for key in derived]
        self._ciphers = dict(reversed(named))
        self.key_id, self._first = named[0]
        """Names the key that encrypts."""

    def encrypt(self, secret_id: UUID, version: int, value: str) -> bytes:
        """Return what is stored of a value."""
        nonce = os.urandom(_NONCE_BYTES)
        text = self._first.encrypt(nonce, value.encode(), _bound(secret_id, version))
        return self.key_id + nonce + text

    def decrypt(self, secret_id: UUID, version: int, stored: bytes) -> str:
        """Return a value. Raises ConfigurationError if it was encrypted with an unknown key."""
        key_id, rest = stored[:_KEY_ID_BYTES], stored[_KEY_ID_BYTES:]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ConfigurationError(
                f"A secret was encrypted with a key that is not among {SETTING}. Add the key that "
                "was used before (or the CELERIAC_SECRET_KEY of that time) after the first one, or "
                "set the secret's value again."
            )
        nonce, text = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, text, _bound(secret_id, version)).decode()
        except InvalidTag as error:
            raise ConfigurationError(
                "What is stored of a secret was changed in the database. Set its value again."
            ) from error


def _bound(secret_id: UUID, version: int) -> bytes:
    return secret_id.bytes + version.to_bytes(_NUMBER_BYTES)
