"""MCP servers over HTTP, reached for Claude Code: only where the guard lets requests go."""

import httpx2

from celeriac.agents.claude.http import forwarded_headers, refuse, returned_headers
from celeriac.agents.mcp.servers import HttpServer
from celeriac.agents.tape.server import Answer, Incoming
from celeriac.kit.outbound import guarded_client

_SILENCE_SECONDS = 3_600.0
"""A server may keep a stream open for messages of its own; calls have their own time limit."""

_MAX_BYTES = 64 * 1024 * 1024


class ToolRelay:
    """Passes the requests of one attempt on to one server."""

    def __init__(self, server: HttpServer) -> None:
        """Reach `server`, with its headers, as far as its guard allows."""
        self._server = server
        self._client = guarded_client(
            server.guard,
            timeout_seconds=_SILENCE_SECONDS,
            max_bytes=_MAX_BYTES,
            headers=dict(server.headers),
        )

    async def relay(self, incoming: Incoming, answer: Answer) -> None:
        """Answer a request with what the server answers; ended by cancelling it."""
        started = False
        try:
            async with self._client.stream(
                incoming.method,
                self._server.url,
                headers=forwarded_headers(incoming),
                content=incoming.body or None,
            ) as response:
                started = True
                await answer.begin(response.status_code, returned_headers(response))
                async for chunk in response.aiter_bytes():
                    await answer.piece(chunk)
                await answer.end()
        except httpx2.HTTPError as error:
            if started:
                answer.cut()
            else:
                await refuse(answer, 502, "api_error", f"The MCP server can't be reached: {error}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
