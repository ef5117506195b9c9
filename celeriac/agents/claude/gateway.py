"""The door between Claude Code and the Messages API: one per attempt, on the loopback.

Claude Code gets this address and a key that is good for nothing else and ends with the attempt;
the real key stays here, out of the reach of its tools. Every call passes one by one: leave is
asked for it, its tokens are read off the wire, its cost is charged, a refusal is kept word by word.
So nothing rests on the SDK's running totals, nor on the prices that it makes up.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import uvicorn

from celeriac.agents.claude.asgi import (
    Receive,
    Request,
    Scope,
    Send,
    client_left,
    read_body,
    refuse,
)
from celeriac.agents.claude.calls import COUNT_PATH, MESSAGES_PATH, Calls
from celeriac.agents.claude.tool_relay import ToolRelay
from celeriac.agents.mcp.servers import Chosen, HttpServer

_PATHS = frozenset({MESSAGES_PATH, COUNT_PATH})
_MAX_BODY = 64_000_000
_POLL_SECONDS = 0.005
_CLOSE_SECONDS = 1


class Gateway:
    """Serves one attempt; made by `serving`."""

    def __init__(self, calls: Calls, servers: Sequence[Chosen]) -> None:
        """Pass model requests to `calls`, and requests at `/mcp/N` to the Nth of `servers`."""
        self.key = secrets.token_urlsafe(32)
        self.port = 0
        self._calls = calls
        self._tools = {
            f"/mcp/{number}": ToolRelay(each.endpoint)
            for number, each in enumerate(servers)
            if isinstance(each.endpoint, HttpServer)
        }

    @property
    def base_url(self) -> str:
        """The address that Claude Code is given."""
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @asynccontextmanager
    async def serving(cls, calls: Calls, servers: Sequence[Chosen] = ()) -> AsyncIterator[Self]:
        """Serve while the block runs; calls that are still under way at its end are cut off."""
        gateway = cls(calls, servers)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            gateway.port = listener.getsockname()[1]
            server = _Server(
                uvicorn.Config(
                    gateway,
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    log_level="warning",
                    timeout_graceful_shutdown=_CLOSE_SECONDS,
                )
            )
            serving = asyncio.create_task(server.serve([listener]), name="claude gateway")
            try:
                while not server.started:
                    if serving.done():
                        serving.result()
                    await asyncio.sleep(_POLL_SECONDS)
                yield gateway
            finally:
                server.should_exit = True
                await calls.cut_off()
                with suppress(asyncio.CancelledError):
                    await serving
                for relay in gateway._tools.values():
                    await relay.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; an ASGI application."""
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if not secrets.compare_digest(headers.get("x-api-key", ""), self.key):
            await refuse(send, 401, "authentication_error", "This key is not for here.")
            return
        relay = self._relay_of(scope)
        if relay is None:
            await refuse(send, 404, "not_found_error", "Only messages pass here.")
            return
        body = await read_body(receive, _MAX_BODY)
        if body is None:
            await refuse(send, 413, "request_too_large", "The request is too large.")
            return
        query = scope["query_string"].decode("latin-1")
        request = Request(scope["method"], scope["path"], query, headers, body)
        passing = asyncio.create_task(relay(request, send))
        leaving = asyncio.create_task(client_left(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            passing.cancel()
            await asyncio.wait({passing})
        if not passing.cancelled():
            passing.result()

    def _relay_of(
        self, scope: Scope
    ) -> Callable[[Request, Send], Coroutine[Any, Any, None]] | None:
        path = scope["path"]
        if path in self._tools:
            return self._tools[path].relay
        return self._calls.relay if scope["method"] == "POST" and path in _PATHS else None


class _Server(uvicorn.Server):
    """A server inside a program that has its own ways with signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield
