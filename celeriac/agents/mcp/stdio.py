"""MCP servers as child processes: their stdio streams and their stderr."""

import asyncio
import contextlib
import os
import select
import signal
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCResponse, jsonrpc_message_adapter

from celeriac.agents.child.protocol import LineSplitter
from celeriac.agents.mcp.servers import StdioServer, programs_of
from celeriac.kit.json_types import dumps, loads
from celeriac.kit.loop import run_shielded
from celeriac.kit.processes import ProcessIdentity, guarded_command, identify, terminate_group_async
from celeriac.kit.threads import FILES
from celeriac.kit.words import counted

BURST = 500
"""Lines of stderr that a server may write at once."""
PER_SECOND = 50
"""Lines of stderr that a server may write per second after that; others are dropped."""
KEPT_LINES = 20

_READ_BYTES = 65_536
_TAIL_BYTES = 16_384
"""Bytes of dropped output of which the last lines are kept."""
_STOP_SECONDS = 0.3
"""How long stderr is read after the server's exit; processes that it started may still write."""
_PAUSE_SECONDS = 0.005
"""Between reads while lines are dropped: a server that writes faster waits for its pipe."""


class StderrReader:
    """Reads one pipe to its end, in a thread; `lines` gets the lines, and None at the end.

    Belongs to the event loop that creates it.
    """

    def __init__(self, descriptor: int) -> None:
        """Read `descriptor`, the reading end of a pipe, and close it at the end."""
        self.lines: asyncio.Queue[list[str] | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        """Set when everything is read."""
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._wake, self._waker = os.pipe()
        self._lock = threading.Lock()
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._tail = b""
        self._dropped = 0
        self._allowance = float(BURST)
        self._at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mcp stderr", daemon=True)
        self._thread.start()

    @property
    def last(self) -> list[str]:
        """The last lines, dropped ones included."""
        with self._lock:
            if not self._tail:
                return list(self._last)
            splitter = LineSplitter()
            lines = [*splitter.feed(self._tail), *splitter.rest()]
            return lines[-KEPT_LINES:]

    async def stop(self) -> None:
        """Read what has been written so far, and end."""
        os.close(self._waker)
        await self.ended.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read()
        finally:
            os.close(self._descriptor)
            os.close(self._wake)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.lines.put_nowait(None)
        self.ended.set()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        splitter = LineSplitter()
        until: float | None = None
        while until is None or time.monotonic() < until:
            ready = {descriptor for descriptor, _ in poll.poll(None if until is None else 0)}
            if self._wake in ready:
                until = time.monotonic() + _STOP_SECONDS
                poll.unregister(self._wake)
            if self._descriptor in ready:
                chunk = os.read(self._descriptor, _READ_BYTES)
                if not chunk:
                    break
                self._take(chunk, splitter, stopping=until is not None)
            elif until is not None:
                break
        self._keep(splitter.rest())
        if self._dropped:
            self._send([f"[{counted(self._dropped, 'line')} of stderr dropped]"])

    def _take(self, chunk: bytes, splitter: LineSplitter, *, stopping: bool) -> None:
        self._refill()
        count = chunk.count(b"\n") or 1
        if count <= self._allowance:
            self._allowance -= count
            with self._lock:
                self._tail = b""
            self._keep(splitter.feed(chunk))
            return
        splitter.rest()
        if not self._dropped:
            self._send(["[more lines of stderr are dropped; only the last ones are kept]"])
        self._dropped += count
        with self._lock:
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        if not stopping:
            time.sleep(_PAUSE_SECONDS)

    def _refill(self) -> None:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._at) * PER_SECOND, float(BURST))
        self._at = now

    def _keep(self, lines: list[str]) -> None:
        if lines:
            with self._lock:
                self._last.extend(lines)
            self._send(lines)

    def _send(self, lines: list[str]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.lines.put_nowait, lines)


MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message of a server; a longer one closes the connection."""

_MARKER = "CELERIAC_MCP_SERVER"
_EXIT_SECONDS = 0.3
"""How long a server may take to exit after its stdin is closed, and after SIGTERM."""

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]
OnLine = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class ExitDetails:
    """How a server ended, for error messages."""

    stderr: StderrReader | None = None
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


@contextlib.asynccontextmanager
async def stdio_streams(
    server: StdioServer, *, workdir: Path, on_line: OnLine, details: ExitDetails
) -> AsyncIterator[Streams]:
    """Start a server and yield its streams; when the block ends, all its processes are ended.

    Lines of its stderr go to `on_line`. Raises OSError if the process can't be started.
    """
    marker = uuid4().hex
    lifeline, writer = os.pipe()
    errors, stderr = os.pipe()
    try:
        process = await _start(server, workdir, lifeline, stderr, marker)
    except BaseException:
        os.close(writer)
        os.close(errors)
        raise
    finally:
        os.close(lifeline)
        os.close(stderr)
    identity = identify(process.pid)
    details.stderr = reader = StderrReader(errors)
    try:
        async with _Bridge(process, details, reader, on_line).running() as streams:
            yield streams
    finally:
        try:
            await run_shielded(_stop(process, identity, f"{_MARKER}={marker}"))
        finally:
            os.close(writer)  # kills what may be left of the group
            await run_shielded(reader.stop())


async def _start(
    server: StdioServer, workdir: Path, lifeline: int, stderr: int, marker: str
) -> Process:
    await FILES.run(_prepare, server, workdir)
    return await asyncio.create_subprocess_exec(
        *guarded_command(
            server.command,
            death_signal=signal.SIGKILL,
            become=server.user.ids,
            lifeline=lifeline,
        ),
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        env={**server.user.variables(workdir), **server.environment, _MARKER: marker},
        cwd=workdir,
        pass_fds=(lifeline,),
        start_new_session=True,
        limit=MAX_MESSAGE_BYTES,
    )


def _prepare(server: StdioServer, workdir: Path) -> None:
    server.user.let_read(programs_of([server]))
    server.user.own(workdir)


async def _stop(process: Process, identity: ProcessIdentity | None, marker: str) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_SECONDS):
            await process.wait()
    if identity is not None:
        await terminate_group_async(identity, _EXIT_SECONDS, marker=marker)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_SECONDS):
            await process.wait()


class _Bridge:
    """Copies messages between the pipes of a process and the streams of a session."""

    def __init__(
        self, process: Process, details: ExitDetails, stderr: StderrReader, on_line: OnLine
    ) -> None:
        self._process = process
        self._details = details
        self._stderr = stderr
        self._on_line = on_line

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Streams]:
        to_session, from_server = anyio.create_memory_object_stream[Incoming](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, to_session)
            tasks.start_soon(self._write, from_session)
            tasks.start_soon(self._read_stderr)
            try:
                yield from_server, to_server
            finally:
                from_server.close()
                to_server.close()
                tasks.cancel_scope.cancel()

    async def _read(self, to_session: MemoryObjectSendStream[Incoming]) -> None:
        assert self._process.stdout is not None
        async with to_session:
            while True:
                try:
                    line = await self._process.stdout.readline()
                except ValueError:
                    self._details.fault = (
                        f"it sent a message of more than {MAX_MESSAGE_BYTES:,} bytes"
                    )
                    return
                if not line:
                    await self._note_exit()
                    return
                try:
                    await to_session.send(_parsed(line))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    async def _note_exit(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                self._details.exit_code = await self._process.wait()
                await self._stderr.ended.wait()

    async def _write(self, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        async with from_session:
            async for message in from_session:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    stdin.write(text.encode() + b"\n")
                    await stdin.drain()
                except ConnectionError:
                    return

    async def _read_stderr(self) -> None:
        while (lines := await self._stderr.lines.get()) is not None:
            for line in lines:
                await self._on_line(line)


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
