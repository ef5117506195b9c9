"""The HTTP server on the loopback."""

import asyncio
from contextlib import suppress

import httpx
import pytest
from structlog.testing import capture_logs

from celeriac.agents.gateway import http_server
from celeriac.agents.gateway.http_server import HttpRequest, LoopbackServer, ResponseWriter

pytestmark = pytest.mark.anyio


async def test_an_error_of_a_handler_is_logged_and_ends_the_connection_alone() -> None:
    async def answer(incoming: HttpRequest, answer: ResponseWriter) -> None:
        if incoming.target == "/broken":
            raise RuntimeError("a bug")
        await answer.begin(204, [])
        await answer.end()

    async with LoopbackServer(answer) as server, httpx.AsyncClient() as client:
        address = f"http://127.0.0.1:{server.port}"
        with capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{address}/broken")
        assert [each["event"] for each in logs] == ["loopback.request_failed"]
        assert (await client.get(f"{address}/")).status_code == 204


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program must not take all descriptors of its worker."""
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 2)

    async def answer(_: HttpRequest, answer: ResponseWriter) -> None:
        await answer.respond(200, [("connection", "close")], b"")

    async with LoopbackServer(answer) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(ConnectionResetError):  # or the end comes as one
            assert await reader.read() == b""
        writer.close()
        for _, each in idle:
            each.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert all([(await each.read()).startswith(b"HTTP/1.1 200") for each, _ in idle])
        for _, each in idle:
            each.close()
