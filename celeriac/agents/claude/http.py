"""What passes on of a request and its answer, and refusals in the Messages API's own words."""

from collections.abc import Sequence

import httpx2

from celeriac.agents.tape.server import Answer, Incoming
from celeriac.kit.jsontypes import dumps

Headers = Sequence[tuple[str, str]]

NO_RETRY = ("x-should-retry", "false")
"""What tells Claude Code, as any client of the Messages API, that trying again won't help."""

_OWN_TO_A_HOP = frozenset(
    """accept-encoding connection content-encoding content-length expect host keep-alive
    proxy-authenticate proxy-connection te trailer transfer-encoding upgrade""".split()
)
_KEYS = frozenset({"x-api-key", "authorization"})
_JSON = ("content-type", "application/json")


def forwarded_headers(incoming: Incoming) -> list[tuple[str, str]]:
    """Return the headers that go on: not those of this connection, nor the keys."""
    return [
        (name, value)
        for name, value in incoming.headers
        if name not in _OWN_TO_A_HOP and name not in _KEYS
    ]


def returned_headers(response: httpx2.Response) -> list[tuple[str, str]]:
    """Return the headers of an answer that go back; its body is passed on decoded."""
    return [
        (name, value)
        for name, value in response.headers.multi_items()
        if name.lower() not in _OWN_TO_A_HOP
    ]


async def respond(answer: Answer, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    await answer.begin(status, headers)
    await answer.piece(body)
    await answer.end()


async def refuse(
    answer: Answer, status: int, kind: str, message: str, *, final: bool = True
) -> None:
    """Answer with an error; a `final` one says that trying again won't help."""
    headers = [_JSON, NO_RETRY] if final else [_JSON]
    await respond(answer, status, headers, error_body(kind, message))


def error_body(kind: str, message: str) -> bytes:
    """Return an error as the Messages API writes it."""
    return dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
