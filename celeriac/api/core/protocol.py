"""Limits of connections, on top of uvicorn's HTTP/1.1.

uvicorn waits for headers and bodies without a time limit, accepts headers of any size and any
number of idle connections. A reverse proxy may have such limits; without one, these apply.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from celeriac.kit.json_types import dumps

logger = structlog.get_logger(__name__)

LIMITS = "limits"
"""The name of the limits in the state of the application's lifespan."""

_MAX_HEADER_BYTES = 64 * 1024
_REASONS = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Unavailable"}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections of one API process. Times in seconds."""

    header_seconds: float = 20.0
    body_seconds: float = 60.0
    max_body_bytes: int = 8_000_000
    max_connections: int = 4_000


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **named: Any) -> None:
        """Take uvicorn's arguments; the limits come from the application's lifespan."""
        super().__init__(*args, **named)
        self._limits: ConnectionLimits = self.app_state.get(LIMITS) or ConnectionLimits()
        self._in_header = True
        self._header_bytes = 0
        self._dropped_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a connection beyond the limit is refused with 503."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self._limits.max_connections:
            logger.warning("api.too_many_connections", limit=self._limits.max_connections)
            self._refuse(503, "too_many_connections", "The server has too many connections.")
            return
        self._within(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read data; refuse headers over the limit."""
        if self._in_header:
            if self._deadline is None:
                self._within(self._limits.header_seconds)
            self._header_bytes += len(data)
        if not self.transport.is_closing():
            super().data_received(data)
        if self._in_header and self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(431, "headers_too_large", "The headers are over 64 kB; send less.")

    def on_headers_complete(self) -> None:
        """Begin the body."""
        self._in_header = False
        self._header_bytes = self._dropped_bytes = 0
        self._within(self._limits.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; after the answer it is dropped, up to the limit."""
        if self.cycle.response_complete:
            self._dropped_bytes += len(body)
            if self._dropped_bytes > self._limits.max_body_bytes:
                self.transport.abort()
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._in_header = True
        self._disarm()
        super().on_message_complete()

    def _within(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._too_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            # an answer is under way: RequestBody has the same limit for the body
            cycle.keep_alive = False
        elif self._in_header and self._header_bytes:
            self._refuse(408, "request_timeout", "The headers took too long to arrive.")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer without the application, which has no request yet, and close."""
        problem = {
            "type": f"urn:celeriac:problem:{code}",
            "title": code.replace("_", " ").capitalize(),
            "status": status,
            "detail": detail,
            "code": code,
        }
        body = dumps(problem).encode()
        head = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        if status == 503:  # noqa: PLR2004 - HTTP's number
            head.append("retry-after: 2")
        self._disarm()
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


SERVER_OPTIONS: dict[str, Any] = {"http": LimitedProtocol, "ws": "none"}
"""The options for uvicorn that `celeriac api` uses too."""
