"""The HTTP server on the loopback."""

import httpx
import pytest
from structlog.testing import capture_logs

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
