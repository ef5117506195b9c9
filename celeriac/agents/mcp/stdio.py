"""MCP servers as child processes: their stdio streams and their stderr."""

import asyncio
import contextlib
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCResponse, jsonrpc_message_adapter

from celeriac.agents.child.process import ChildCommand, GuardedProcess
from celeriac.agents.child.protocol import MAX_LINE_BYTES, LineSplitter
from celeriac.agents.mcp.servers import StdioServer, programs_of
from celeriac.kit.json_types import dumps, loads
from celeriac.kit.sandbox import environment_inside
from celeriac.kit.words import counted

BURST = 500
"""Lines of stderr that a server may write at once."""
PER_SECOND = 50
"""Lines of stderr that a server may write per second after that; others are dropped."""
KEPT_LINES = 20

_READ_BYTES = 65_536
_TAIL_BYTES = 16_384
"""Bytes of dropped output of which the last lines are kept."""
_PAUSE_SECONDS = 0.005
"""Between reads while lines are dropped: a server that writes faster waits for its pipe."""


class StderrLog:
    """The lines of a server's stderr, without those that exceed the rate.

    `lines` gets the lines, and None at the end. Belongs to the event loop.
    """

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        """Set when everything is read."""
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._tail = b""
        self._dropped = 0
        self._allowance = float(BURST)
        self._at = time.monotonic()

    @property
    def last(self) -> list[str]:
        """The last lines, dropped ones included."""
        if not self._tail:
            return list(self._last)
        splitter = LineSplitter()
        lines = [*splitter.feed(self._tail), *splitter.rest()]
        return lines[-KEPT_LINES:]

    async def read(self, stderr: asyncio.StreamReader) -> None:
        """Read `stderr` to its end."""
        splitter = LineSplitter()
        while chunk := await stderr.read(_READ_BYTES):
            count = chunk.count(b"\n") or 1
            if self._allows(count):
                self._tail = b""
                self._keep(splitter.feed(chunk))
                continue
            splitter.rest()
            if not self._dropped:
                self.lines.put_nowait(
                    "[more lines of stderr are dropped; only the last ones are kept]"
                )
            self._dropped += count
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
            await asyncio.sleep(_PAUSE_SECONDS)
        self._keep(splitter.rest())
        if self._dropped:
            self.lines.put_nowait(f"[{counted(self._dropped, 'line')} of stderr dropped]")
        self.lines.put_nowait(None)
        self.ended.set()

    def _allows(self, count: int) -> bool:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._at) * PER_SECOND, float(BURST))
        self._at = now
        if count > self._allowance:
            return False
        self._allowance -= count
        return True

    def _keep(self, lines: list[str]) -> None:
        self._last.extend(lines)
        for line in lines:
            self.lines.put_nowait(line)


MAX_MESSAGE_BYTES = MAX_LINE_BYTES
"""The longest message of a server; a longer one closes the connection."""

_EXIT_SECONDS = 0.3
"""How long a server may take to exit after its stdin is closed, and after SIGTERM."""

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]
OnLine = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class ExitDetails:
    """How a server ended, for error messages."""

    stderr: StderrLog | None = None
    fault: str | None = None
    """The fault for which the connection was closed."""
    exit_code: int | None = None

    def __str__(self) -> str:
        parts = [self.fault] if self.fault else []
        if self.exit_code is not None:
            parts.append(f"it exited with {self.exit_code}")
        lines = self.stderr.last if self.stderr else []
        if lines:
            parts.append(f"its stderr ends with: {' / '.join(lines[-3:])}")
        return "; ".join(parts)


class _ServerProcess(GuardedProcess):
    """The process of a server; it is asked to exit by closing its stdin."""

    def __init__(self, popen: subprocess.Popen[bytes], command: ChildCommand, marker: str) -> None:
        super().__init__(popen, command, marker)
        self.errors = StderrLog()

    def _begin(self) -> None:
        self._tasks = [asyncio.create_task(self.errors.read(self.stderr), name="read mcp stderr")]

    async def _ask_to_end(self) -> None:
        self.stdin.close()
        await self.wait(_EXIT_SECONDS)

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_EXIT_SECONDS)


@contextlib.asynccontextmanager
async def stdio_streams(
    server: StdioServer,
    *,
    workdir: Path,
    on_line: OnLine,
    details: ExitDetails,
    writes: tuple[Path, ...] = (),
) -> AsyncIterator[Streams]:
    """Start a server and yield its streams; when the block ends, all its processes are ended.

    It may also write to `writes`, in one of which `workdir` may lie. Lines of its stderr go to
    `on_line`. Raises OSError if the process can't be started.
    """
    environment = {**server.user.variables(workdir), **server.environment}
    if server.sandbox is not None:
        environment = environment_inside(environment, workdir)
    command = ChildCommand(
        arguments=server.command,
        environment=environment,
        workdir=workdir,
        stop_grace_seconds=_EXIT_SECONDS,
        user=server.user,
        reads=tuple(programs_of([server])),
        sandbox=server.sandbox,
        writes=writes,
        servers=server.ports,
        shows=tuple(each for each in programs_of([server]) if each.is_file()),
    )
    async with _ServerProcess.spawn(command) as process:
        details.stderr = process.errors
        to_session, from_server = anyio.create_memory_object_stream[Incoming](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, process, to_session, details)
            tasks.start_soon(_write, process.stdin, from_session)
            tasks.start_soon(_relay, process.errors, on_line)
            try:
                yield from_server, to_server
            finally:
                from_server.close()
                to_server.close()
                tasks.cancel_scope.cancel()


async def _read(
    process: _ServerProcess, to_session: MemoryObjectSendStream[Incoming], details: ExitDetails
) -> None:
    async with to_session:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                details.fault = f"it sent a message of more than {MAX_MESSAGE_BYTES:,} bytes"
                return
            if not line:
                await _note_exit(process, details)
                return
            try:
                await to_session.send(_parsed(line))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


async def _note_exit(process: _ServerProcess, details: ExitDetails) -> None:
    if await process.wait(_EXIT_SECONDS):
        details.exit_code = process.returncode
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_SECONDS):
            await process.errors.ended.wait()


async def _write(
    stdin: asyncio.WriteTransport, from_session: MemoryObjectReceiveStream[SessionMessage]
) -> None:
    async with from_session:
        async for message in from_session:
            if stdin.is_closing():
                return
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            stdin.write(text.encode() + b"\n")


async def _relay(errors: StderrLog, on_line: OnLine) -> None:
    while (line := await errors.lines.get()) is not None:
        await on_line(line)


def _parsed(line: bytes) -> Incoming:
    """Return the message of a line, or the error; the session ignores errors."""
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return _wrapped(line) or error


def _wrapped(line: bytes) -> SessionMessage | None:
    """Return a response whose result is not an object, such as null, as one with content."""
    try:
        value = loads(line)
        text = dumps(value["result"])
        result = {"content": [{"type": "text", "text": text}]}
        return SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=value["id"], result=result))
    except (LookupError, TypeError, ValueError):
        return None
