"""A loopback TCP proxy before PostgreSQL: it moves to another server and loses answers."""

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HOST = "127.0.0.1"
_READ_BYTES = 65_536
_READY_AND_IDLE = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery outside a transaction: what went before is committed."""

LOSABLE = {
    "usage": b"INSERT INTO model_calls",
    "submission": b"INSERT INTO executions",
    "budget": b"budget_",
    "any": b"INSERT INTO ",
}
"""Answers that can be lost, by what their statement has in it."""


class PostgresProxy:
    """Forwards connections to a server's Unix socket; runs on a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.lost = 0
        """How many answers were lost so far."""
        self._socket: Path | None = None
        self._losing: tuple[bytes, int] = (b"", 0)
        self._refused: bytes | None = None
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def running(self) -> Iterator["PostgresProxy"]:
        """Serve while the block runs."""
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, _HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._loop.run_forever, name="postgres proxy")
        thread.start()
        try:
            yield self
        finally:
            server.close()
            self._call(self._cut)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.run_until_complete(_rest(self._loop))
            self._loop.close()

    def lead_to(self, socket: Path | None) -> None:
        """Forward new connections to this Unix socket and cut those there are; None: refuse all."""
        self._socket = socket
        self.cut()

    def refuse(self, application: str | None) -> None:
        """Cut all connections, and refuse those of an application from now on; None: of nobody."""
        self._refused = None if application is None else application.encode()
        self.cut()

    def refuses(self, startup: bytes) -> bool:
        """Whether a connection that begins with this packet is refused."""
        return self._refused is not None and self._refused in startup

    def cut(self) -> None:
        """Cut all connections, as the restart of a pooler does."""
        self._call(self._cut)

    def lose(self, what: str, answers: int) -> None:
        """Carry out the next `answers` statements of a kind; their answers never arrive."""
        self._losing = (LOSABLE[what], answers)

    def lose_nothing(self) -> None:
        """Let all answers through again."""
        self._losing = (b"", 0)

    def wants(self, statement: bytes) -> bool:
        """Whether the answer to a statement is to be lost."""
        what, answers = self._losing
        return answers > 0 and what in statement

    def take(self) -> bool:
        """Count one lost answer; False where enough were lost meanwhile."""
        what, answers = self._losing
        if answers <= 0:
            return False
        self._losing = (what, answers - 1)
        self.lost += 1
        return True

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.cut()

    def _call(self, function: "object") -> None:
        done = threading.Event()

        def call() -> None:
            function()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._socket is None:
            writer.close()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.close()
            return
        connection = _Connection(self, (reader, writer), (server_reader, server_writer))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    def __init__(self, proxy: PostgresProxy, client: _Stream, server: _Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._statements = _Statements()
        self._marked = False

    async def run(self) -> None:
        """Forward until one side closes."""
        pumps = [asyncio.create_task(self._ask()), asyncio.create_task(self._answer())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self.cut()

    def cut(self) -> None:
        """Close both sides at once."""
        for _, writer in (self._client, self._server):
            with suppress(OSError, RuntimeError):
                writer.transport.abort()

    async def _ask(self) -> None:
        with suppress(OSError):
            while data := await self._client[0].read(_READ_BYTES):
                if not self._statements.begun and self._proxy.refuses(data):
                    return
                for statement in self._statements.feed(data):
                    self._marked = self._marked or self._proxy.wants(statement)
                self._server[1].write(data)
                await self._server[1].drain()

    async def _answer(self) -> None:
        with suppress(OSError):
            while data := await self._server[0].read(_READ_BYTES):
                if self._marked and data.endswith(_READY_AND_IDLE):
                    self._marked = False
                    if self._proxy.take():
                        return
                self._client[1].write(data)
                await self._client[1].drain()


class _Statements:
    """Reads what a client sends: yields the text of each statement that it has carried out."""

    def __init__(self) -> None:
        self._buffer = b""
        self.begun = False
        self._prepared: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came; yield the statements whose carrying out it asks for."""
        self._buffer += data
        if not self.begun:
            # the startup packet has no type
            size = self._length(0)
            if size is None or len(self._buffer) < size:
                return
            self._buffer, self.begun = self._buffer[size:], True
        while (size := self._length(1)) is not None and len(self._buffer) > size:
            kind, body = self._buffer[:1], self._buffer[5 : size + 1]
            self._buffer = self._buffer[size + 1 :]
            if kind == b"Q":
                yield body
            elif kind == b"P":
                name, statement, _ = body.split(b"\0", 2)
                self._prepared[name] = statement
            elif kind == b"B":
                _, name, _ = body.split(b"\0", 2)
                yield self._prepared.get(name, b"")

    def _length(self, at: int) -> int | None:
        if len(self._buffer) < at + 4:
            return None
        return int(struct.unpack_from("!I", self._buffer, at)[0])


async def _rest(loop: asyncio.AbstractEventLoop) -> None:
    """Let what was cut come to its end."""
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks(loop) if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
