"""MCP over the stdio of a child process that can't outlive its run.

The SDK's own transport would inherit the worker's environment, read lines of any length, and take
seconds to stop a server that doesn't want to.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from celeriac.agents.child.lines import LineSplitter
from celeriac.agents.mcp.servers import StdioServer, programs_of
from celeriac.kit.process import (
    ProcessIdentity,
    guarded_command,
    identify,
    terminate_group_async,
)
from celeriac.kit.shielding import despite_cancellation
from celeriac.kit.threads import FILES

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""One message of a server; a longer one ends the connection."""

_MARKER = "CELERIAC_MCP_SERVER"
_READ_BYTES = 65_536
_GOODBYE_SECONDS = 0.3
"""How long a server may take to end by itself once its stdin is closed, and after SIGTERM."""
_STDERR_LINES = 20

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]
OnLine = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class LastWords:
    """What a server said at its end, for the error that tells of it."""

    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    fault: str | None = None
    """Why we hung up, where it was us."""
    exit_code: int | None = None

    def __str__(self) -> str:
        parts = [self.fault] if self.fault else []
        if self.exit_code is not None:
            parts.append(f"it exited with {self.exit_code}")
        if self.stderr:
            parts.append(f"its stderr ends with: {' / '.join(list(self.stderr)[-3:])}")
        return "; ".join(parts)


@contextlib.asynccontextmanager
async def stdio_streams(
    server: StdioServer, *, workdir: Path, on_line: OnLine, words: LastWords
) -> AsyncIterator[Streams]:
    """Start a server and give its streams to the block; at its end nothing of it is left.

    Lines of its stderr go to `on_line`. Raises OSError where no process can be started.
    """
    marker = uuid4().hex
    lifeline, writer = os.pipe()
    try:
        process = await _start(server, workdir, lifeline, marker)
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(lifeline)
    identity = identify(process.pid)
    try:
        async with _Bridge(process, words, on_line).running() as streams:
            yield streams
    finally:
        try:
            await despite_cancellation(_stop(process, identity, f"{_MARKER}={marker}"))
        finally:
            os.close(writer)  # should anything be left of the group, this kills it


async def _start(server: StdioServer, workdir: Path, lifeline: int, marker: str) -> Process:
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
        stderr=PIPE,
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
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await process.wait()
    if identity is not None:
        await terminate_group_async(identity, _GOODBYE_SECONDS, marker=marker)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await process.wait()


class _Bridge:
    """Carries messages between a process's pipes and the streams of a session."""

    def __init__(self, process: Process, words: LastWords, on_line: OnLine) -> None:
        self._process = process
        self._words = words
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
                    self._words.fault = (
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
            async with asyncio.timeout(_GOODBYE_SECONDS):
                self._words.exit_code = await self._process.wait()

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
        assert self._process.stderr is not None
        splitter = LineSplitter()
        while chunk := await self._process.stderr.read(_READ_BYTES):
            await self._tell(splitter.feed(chunk))
        await self._tell(splitter.rest())

    async def _tell(self, lines: list[str]) -> None:
        self._words.stderr.extend(lines)
        for line in lines:
            await self._on_line(line)


def _parsed(line: bytes) -> Incoming:
    """Read one line; the session gets what is no message as an exception and passes over it."""
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error
