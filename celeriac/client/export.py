"""Downloads of many executions, over as many requests as needed."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from celeriac.client.errors import ClientError
from celeriac.client.transport import Transport

_MOST = 100_000
"""The most executions in one response."""
_NEXT_CURSOR = "Celeriac-Next-Cursor"


def exported(
    transport: Transport, path: str, params: Mapping[str, Any], limit: int | None
) -> Iterator[bytes]:
    """Yield the pieces of an export of at most `limit` executions. Raises ClientError.

    An export that breaks off raises ClientError with the code `export_incomplete`.
    """
    asked = {**params, "header": True}
    left = limit
    while True:
        asked["limit"] = _MOST if left is None else min(left, _MOST)
        with transport.reading(path, asked) as response:
            yield from _pieces(response)
            cursor = response.headers.get(_NEXT_CURSOR)
        left = None if left is None else left - _MOST
        if cursor is None or (left is not None and left <= 0):
            return
        asked |= {"cursor": cursor, "header": False}


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except httpx.TransportError as error:
        raise ClientError(
            f"The export broke off and is incomplete ({str(error) or type(error).__name__}). "
            "Export again; the server's log says why, if the server did it.",
            code="export_incomplete",
        ) from error
