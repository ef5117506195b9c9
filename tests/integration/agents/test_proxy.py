"""The proxy of an attempt: connections that end early, and errors that are not its own."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from celeriac.agents.network import connection, proxy
from celeriac.agents.network.proxy import ForwardProxy
from celeriac.agents.network.rules import NetworkRules
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.events import EventType
from celeriac.domain.secrets.model import HostCredential
from celeriac.kit.destinations import Destination
from celeriac.kit.json_types import JsonObject
from celeriac.kit.outbound import OutboundGuard
from tests.support.run_context import RecordingContext, events_of

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def reached(
    handle: Handler, context: RecordingContext, *headers: str
) -> AsyncIterator[tuple[int, int]]:
    """Give the block the ports of a proxy, and of the server that it reaches.

    Plain requests to the server get `headers`, and are sent on with TLS then.
    """
    listener = socket.create_server((HOST, 0))
    proxy_port = int(listener.getsockname()[1])
    async with await asyncio.start_server(handle, HOST, 0) as server:
        port = int(server.sockets[0].getsockname()[1])
        rules = NetworkRules(
            (Destination.read(f"{HOST}:{port}"),), OutboundGuard(allow_private=True), named=True
        )
        credentials = [HostCredential(HOST, port, each, "value") for each in headers]
        async with ForwardProxy.serving(rules, context, credentials) as serving:
            await serving.serve(listener)
            yield proxy_port, port


async def answered(port: int, *sent: bytes) -> bytes:
    """Send bytes to the proxy, wait for an answer after each, and return all until it closes."""
    reader, writer = await asyncio.open_connection(HOST, port)
    found = b""
    try:
        async with asyncio.timeout(20):
            for each in sent:
                writer.write(each)
                if each is not sent[-1]:
                    found += await reader.readuntil(b"\r\n\r\n")
            return found + await reader.read()
    finally:
        writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def test_a_tunnel_whose_announced_body_does_not_come_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    async with reached(hang_up, RecordingContext(tmp_path)) as (proxy_port, port):
        head = f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9\r\n\r\n"
        assert await answered(proxy_port, head.encode()) == b""


async def test_a_host_that_gives_no_tls_is_reported_with_a_reason(tmp_path: Path) -> None:
    async with reached(hang_up, RecordingContext(tmp_path), "x-key") as (proxy_port, port):
        head = f"GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        found = await answered(proxy_port, head.encode())
    assert found.startswith(b"HTTP/1.1 502 The host can't be reached: ")
    assert b"None" not in found


class Lost(RecordingContext):
    """An attempt that another worker has, once there is something to report."""

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        if kind is EventType.NETWORK_REFUSED:
            raise LeaseLostError("Another worker has the attempt.")
        await super().emit(kind, data)


async def test_a_refusal_that_can_not_be_stored_is_no_fault_of_the_proxy(tmp_path: Path) -> None:
    context = Lost(tmp_path)
    with capture_logs() as logs:
        async with reached(hang_up, context) as (proxy_port, port):
            head = f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            found = await answered(proxy_port, head, b"GET / HTTP/1.1\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert logs == []
    assert events_of(context, EventType.NETWORK_USED)[0]["refused"][0]["times"] == 1


async def test_a_program_that_leaves_before_the_answer_is_no_fault_of_the_proxy(
    tmp_path: Path,
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    with capture_logs() as logs:
        async with (
            reached(never_answer, RecordingContext(tmp_path)) as (proxy_port, port),
            asyncio.timeout(20),
        ):
            reader, writer = await asyncio.open_connection(HOST, proxy_port)
            writer.write(f"GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            await asked.wait()
            taken = writer.get_extra_info("socket")
            # a reset, as of a program that was killed
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
            await left.wait()
            del reader
    assert logs == []


class Failing(socket.socket):
    """A listening socket whose worker has no descriptors left."""

    def __init__(self) -> None:
        super().__init__()
        self.accepts, self.enough = 0, asyncio.Event()

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        if self.accepts == 20:
            self.enough.set()
        raise OSError(errno.EMFILE, "Too many open files")


async def test_connections_that_can_not_be_accepted_are_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_PAUSE_SECONDS", 0.001)
    rules = NetworkRules((), OutboundGuard(), named=True)
    listener = Failing()
    with capture_logs() as logs:
        async with ForwardProxy.serving(rules, RecordingContext(tmp_path)) as serving:
            await serving.serve(listener)
            async with asyncio.timeout(20):
                await listener.enough.wait()
    assert [each["event"] for each in logs] == ["network.accept_failed"]
    assert listener.fileno() == -1, "it is closed at the end"
