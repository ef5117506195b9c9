"""The few words of ASGI that the gateway speaks, and what a relay passes on of HTTP."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import httpx2

from celeriac.kit.jsontypes import dumps

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

NO_RETRY = (b"x-should-retry", b"false")
"""What tells Claude Code, as any client of the Messages API, that trying again won't help."""


_NOT_FORWARDED = frozenset(
    {"host", "content-length", "connection", "accept-encoding", "x-api-key", "authorization"}
)
_NOT_RETURNED = frozenset(
    {"content-length", "content-encoding", "transfer-encoding", "connection", "date", "server"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of Claude Code's; names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def forwarded_headers(self) -> dict[str, str]:
        """Return the headers that go on: not those of this connection, nor its key."""
        return {name: value for name, value in self.headers.items() if name not in _NOT_FORWARDED}


def returned_headers(response: httpx2.Response) -> Headers:
    """Return the headers of an answer that go back; its body is passed on decoded."""
    return [
        (name.lower(), value)
        for name, value in response.headers.raw
        if name.lower().decode("latin-1") not in _NOT_RETURNED
    ]


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, kind: str, message: str, *, final: bool = True) -> None:
    """Answer with an error as the Messages API writes it."""
    headers: Headers = [(b"content-type", b"application/json")]
    await respond(send, status, headers + [NO_RETRY] * final, error_body(kind, message))


def error_body(kind: str, message: str) -> bytes:
    """Return an error as the Messages API writes it."""
    return dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """Return the whole body; None where it is larger than `limit`, or its sender has gone."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def client_left(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
