"""Secret tokens: their form, and the hash that is stored."""

import hashlib
import hmac
import secrets

_PREFIX_BYTES = 6
_SECRET_BYTES = 24
_PARTS = 3


def new_token(scheme: str) -> tuple[str, str]:
    """Return the public prefix of a new secret token, and the token: `scheme_prefix_secret`."""
    prefix = secrets.token_hex(_PREFIX_BYTES)
    return prefix, f"{scheme}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"


def prefix_of(scheme: str, token: str) -> str | None:
    """Return the public prefix of a token; None if it has not the form of one."""
    parts = token.split("_")
    well_formed = len(parts) == _PARTS and parts[0] == scheme
    return parts[1] if well_formed and token.isascii() and token.isprintable() else None


def key_hash(secret_key: str, token: str) -> str:
    """Return the keyed hash (HMAC-SHA256, hexadecimal) under which a key is stored."""
    return hmac.new(secret_key.encode(), token.encode(), hashlib.sha256).hexdigest()
