"""Idempotency keys: what makes two requests the same."""

import hashlib
from typing import Any

import orjson
from fastapi import Request
from pydantic import BaseModel

from celeriac.services.submit import Idempotency

REPLAYED = "Idempotent-Replayed"


def idempotency(request: Request, key: str | None, body: BaseModel | None) -> Idempotency | None:
    """Return the key with the fingerprint of the request, or None where no key was sent.

    The fingerprint covers method, path and the body as it was understood: spaces, the order of
    keys and defaults that are written out make no difference. Takes time for a large body.
    """
    if key is None:
        return None
    found = hashlib.sha256(f"{request.method}\n{request.url.path}\n".encode())
    found.update(orjson.dumps(body, default=_fields, option=orjson.OPT_SORT_KEYS))
    return Idempotency(key, found.hexdigest())


def _fields(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dict(value)
    return str(value)  # an amount of money
