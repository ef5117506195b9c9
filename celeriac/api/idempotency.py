"""Idempotency keys: what makes two requests the same."""

import hashlib
import json
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from celeriac.services.submit import Idempotency

REPLAYED = "Idempotent-Replayed"


def idempotency(request: Request, key: str | None, body: BaseModel | None) -> Idempotency | None:
    """Return the key with the fingerprint of the request, or None where no key was sent.

    The fingerprint covers method, path and the body as it was understood: spaces, the order of
    keys and defaults that are written out make no difference.
    """
    if key is None:
        return None
    content: Any = None if body is None else body.model_dump(mode="json")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = f"{request.method}\n{request.url.path}\n{canonical}"
    return Idempotency(key, hashlib.sha256(text.encode()).hexdigest())
