"""A small HTTP server on the loopback, on the running event loop.

Unlike web servers it can break an answer off, and it cancels the handler when the client is gone.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import h11
import structlog

logger = structlog.get_logger(__name__)

MAX_REQUEST_BYTES = 64 * 1024 * 1024
MOST_CONNECTIONS = 1_024
"""At once; more are cut off, since all attempts of a worker share its descriptors. Clients open
1,000 at most."""

_READ = 64 * 1024
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A whole request. Names of headers are in lower case; the target is as it was sent."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first header of that name, or an empty text."""
        return next((value for each, value in self.headers if each == name), "")


class ResponseWriter:
    """Sends the response to one request, piece by piece."""

    def __init__(self, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._writer = writer

    async def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send the head. The server adds the headers that frame the body."""
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self._send(h11.Response(status_code=status, headers=encoded))

    async def piece(self, data: bytes) -> None:
        """Send a piece of the body at once."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """End the response properly."""
        await self._send(h11.EndOfMessage())

    def cut(self) -> None:
        """Abort the connection."""
        self._writer.transport.abort()

    async def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send a whole response."""
        await self.begin(status, headers)
        await self.piece(body)
        await self.end()

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._connection.send(event) or b"")
        await self._writer.drain()


Handler = Callable[[HttpRequest, ResponseWriter], Coroutine[Any, Any, None]]


class LoopbackServer:
    """Passes each request to `handle`, which is cancelled when the client disconnects."""

    def __init__(self, handle: Handler) -> None:
        """Serve from `__aenter__` to `__aexit__`, on a port that the system chooses."""
        self._handle = handle
        self._server: asyncio.Server
        self._others: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        """The port, once the server runs."""
        return int(self._server.sockets[0].getsockname()[1])

    async def serve_also(self, listener: socket.socket) -> None:
        """Serve the connections of another listening socket too, and close it at the end."""
        self._others.append(await asyncio.start_server(self._connected, sock=listener))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in (self._server, *self._others):
            server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Connection(reader, writer, self._handle).serve()
        except (ConnectionError, h11.ProtocolError):
            pass  # the client is at fault, and notices it
        except Exception:
            logger.exception("loopback.request_failed")
        finally:
            writer.close()


class _Connection:
    """One client's connection: request after request."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while (incoming := await self._request()) is not None:
            answer = ResponseWriter(self._http, self._writer)
            if not await self._unless_gone(self._handle(incoming, answer)):
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _request(self) -> HttpRequest | None:
        """Return the next request, or None where the client sends no more."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._continue()
                self._http.receive_data(await self._reader.read(_READ))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_REQUEST_BYTES:
                    refusal = ResponseWriter(self._http, self._writer)
                    await refusal.begin(_TOO_LARGE, [("connection", "close")])
                    await refusal.end()
                    return None
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return HttpRequest(
                    method=head.method.decode(),
                    target=head.target.decode("ascii"),
                    headers=[(n.decode(), v.decode("latin-1")) for n, v in head.headers],
                    body=bytes(body),
                )
            else:
                return None

    async def _continue(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._writer.write(self._http.send(go_on) or b"")
            await self._writer.drain()

    async def _unless_gone(self, work: Coroutine[Any, Any, None]) -> bool:
        """Await `work`, but cancel it when the client disconnects; return whether it was done."""
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            await working
            return True
        finally:
            await _ended(watching)
            await _ended(working)

    async def _until_gone(self) -> None:
        while data := await self._reader.read(_READ):
            self._http.receive_data(data)


async def _ended(task: Awaitable[None]) -> None:
    """Cancel a task that still runs, and wait for its end; its exception was raised before."""
    future = asyncio.ensure_future(task)
    future.cancel()
    await asyncio.wait({future})
    if not future.cancelled():
        future.exception()
