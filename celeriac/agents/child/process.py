"""A child process of a runner: confined, connected by pipes, and always ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple, Self
from uuid import uuid4

from celeriac.agents.child.protocol import (
    MAX_LINE_BYTES,
    ChildMessage,
    LineSplitter,
    LogMessage,
    encode_line,
    parse_line,
)
from celeriac.agents.child.whole_limits import within_limits
from celeriac.domain.errors import ChildProtocolError
from celeriac.kit.child_bootstrap import SIGNALLED
from celeriac.kit.files import Folder
from celeriac.kit.json_types import JsonObject
from celeriac.kit.loop import run_shielded
from celeriac.kit.processes import (
    NO_LIMITS,
    Asked,
    Namespace,
    ProcessIdentity,
    ResourceLimits,
    guarded_command,
    identify,
    terminate_group_async,
)
from celeriac.kit.sandbox import LoopbackPort, Sandbox
from celeriac.kit.threads import PROCESSES
from celeriac.kit.users import OURSELVES, ChildUser

MARKER = "CELERIAC_CHILD"
"""The environment variable that marks the processes of one child."""

_READ_BYTES = 65_536
_STDERR_LINES = 100
_QUEUED_MESSAGES = 100
_PIPE_GRACE_SECONDS = 1.0
_STDERR_SECONDS = 1.0
"""How long stderr is read after stdout has ended."""

_REAP_SECONDS = 5.0
_SIGNALS = frozenset(signal.Signals)


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """The program to start and its limits.

    `environment` is complete; only a marker variable is added. `stop_grace_seconds` pass between
    SIGTERM and SIGKILL. The child runs as `user`, who owns `workdir` and gets read access to
    `reads`. In a `sandbox` it sees the system, `shows`, `workdir` and the directories `writes`,
    which it may write to, and reaches `servers`. A `workdir` in one of `writes` is the user's
    already; one that a link leads to is refused.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: Path
    limits: ResourceLimits = NO_LIMITS
    stop_grace_seconds: float = 2.0
    user: ChildUser = OURSELVES
    reads: tuple[Path, ...] = ()
    sandbox: Sandbox | None = None
    shows: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    servers: tuple[LoopbackPort, ...] = ()
    passes: tuple[int, ...] = ()
    """Open descriptors that the process inherits."""

    @property
    def inner(self) -> Folder | None:
        """The working directory, if it lies in one that earlier processes could write to."""
        for each in self.writes:
            if self.workdir != each and self.workdir.is_relative_to(each):
                return Folder(each, *self.workdir.relative_to(each).parts)
        return None


class _Started(NamedTuple):
    """A started process, and its listening sockets for `ChildCommand.servers`."""

    popen: subprocess.Popen[bytes]
    listeners: Sequence[socket.socket] = ()


class GuardedProcess:
    """A process that ends with the block of `spawn`, with all processes that it started.

    Belongs to the event loop that spawned it. Subclasses define `_begin` and `_ask_to_end`.
    """

    stdin: asyncio.WriteTransport
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, popen: subprocess.Popen[bytes], command: ChildCommand, marker: str) -> None:
        self._popen = popen
        self._grace_seconds = command.stop_grace_seconds
        self._sandbox = command.sandbox
        self._marker = marker
        identity = identify(popen.pid)
        assert identity is not None, "a child that was not reaped has an entry in /proc"
        self._identity = identity
        self._exited = asyncio.Event()
        self._handle: int | None = None
        self._termination: asyncio.Task[frozenset[ProcessIdentity]] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def spawn(cls, command: ChildCommand) -> AsyncIterator[Self]:
        """Yield a new process. When the block ends, by cancellation too, the process is ended.

        The process and all that it started get SIGTERM, then SIGKILL, before this returns. Raises
        OSError if the process can't be started, UnreachableError if its user can't access a file
        that it needs, MemoryLimitError or DiskLimitError where its sandbox as a whole exceeded a
        limit.
        """
        marker = f"{MARKER}={uuid4().hex}"
        if command.sandbox is not None:
            command = replace(command, sandbox=command.sandbox.named(command.limits.memory))
        lifeline, writer = os.pipe()
        popen, listeners = await _started(command, marker, lifeline, writer)
        process = cls(popen, command, marker)
        try:
            await serve_listeners(command.servers, listeners)
            await process._connect()
            process._begin()
            written = (command.workdir, *command.writes)
            with within_limits(command.sandbox, lambda: process._identity, written):
                yield process
        finally:
            try:
                await run_shielded(process._end())
            finally:
                os.close(writer)  # kills what may be left of the group

    @property
    def pid(self) -> int:
        """The process id, which is also that of the group and the session."""
        return self._identity.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; None while it runs."""
        code = self._popen.returncode
        if self._sandbox is not None and code is not None and code > SIGNALLED:  # as a shell
            number = code - SIGNALLED
            return -number if number in _SIGNALS else code
        return code

    def kill_at_end(self) -> None:
        """Kill the process with SIGKILL at the end of the block, without SIGTERM before."""
        self._grace_seconds = 0.0

    async def wait(self, seconds: float) -> bool:
        """Wait until the process has exited; returns False if it still runs after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    def _begin(self) -> None:
        """Start the tasks in `_tasks`, which are cancelled at the end."""

    async def _ask_to_end(self) -> None:
        """Ask a process that still runs to end, before SIGTERM."""

    async def _drain(self) -> None:
        """Read remaining output, after the processes have ended."""

    async def _sweep(self) -> None:
        """End the processes that the child leaves when it exits; they also hold its pipes open."""
        await self._exited.wait()
        await self._terminate()
        await asyncio.sleep(_PIPE_GRACE_SECONDS)
        for reader in (self.stdout, self.stderr):
            if not reader.at_eof():
                reader.feed_eof()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._handle = os.pidfd_open(self.pid)
        loop.add_reader(self._handle, self._reap)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._popen.stdin)
        self._transports.append(self.stdin)
        self.stdout = await self._connect_reader(self._popen.stdout, MAX_LINE_BYTES)
        self.stderr = await self._connect_reader(self._popen.stderr, _READ_BYTES)

    async def _connect_reader(self, pipe: IO[bytes], limit: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=limit)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        self._transports.append(transport)
        return reader

    def _reap(self) -> None:
        if self._handle is not None:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None
        if self._popen.poll() is not None:
            self._exited.set()

    async def _terminate(self) -> None:
        """End the group, once: at its leader's exit or at the end of the block."""
        if self._termination is None:
            self._termination = asyncio.ensure_future(
                terminate_group_async(
                    self._identity,
                    self._grace_seconds,
                    marker=self._marker,
                    asked=Asked.ALL if self._sandbox is None else self._sandbox.asked,
                )
            )
        await asyncio.shield(self._termination)

    async def _end(self) -> None:
        """End the process and those that it started, and close its pipes."""
        if self._transports and not self._exited.is_set():
            await self._ask_to_end()
        await self._terminate()
        await self.wait(_REAP_SECONDS)
        self._reap()
        if self._sandbox is not None:
            await PROCESSES.run(self._sandbox.clean)
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            if transport.is_closing():
                continue
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            else:
                transport.close()
        await asyncio.sleep(0)  # transports close their pipes in the next iteration of the loop
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()


class ChildProcess(GuardedProcess):
    """A process that uses the child protocol."""

    def __init__(self, popen: subprocess.Popen[bytes], command: ChildCommand, marker: str) -> None:
        super().__init__(popen, command, marker)
        self._stderr_tail: deque[str] = deque(maxlen=_STDERR_LINES)
        self._queue: asyncio.Queue[ChildMessage | Exception | None] = asyncio.Queue(
            _QUEUED_MESSAGES
        )

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines that the child wrote to stderr."""
        return tuple(self._stderr_tail)

    def send(self, message: JsonObject) -> None:
        """Send a message to the child; it is lost if the child has closed its stdin.

        Raises ChildProtocolError if the message is too long.
        """
        line = encode_line(message)
        if not self.stdin.is_closing():
            self.stdin.write(line)

    async def next_message(self) -> ChildMessage | None:
        """Return the child's next message or log line; None after the last one.

        Raises ChildProtocolError for a line that is no message. Cancelling this loses no message.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def fail(self, error: Exception) -> None:
        """Make `next_message` raise `error` after the messages that are already queued."""
        await self._queue.put(error)

    def _begin(self) -> None:
        self._tasks = [
            asyncio.create_task(self._read(), name=f"read child {self.pid}"),
            asyncio.create_task(self._sweep(), name=f"sweep child {self.pid}"),
        ]

    async def _ask_to_end(self) -> None:
        self.send({"type": "cancel"})

    async def _read(self) -> None:
        stderr_reader = asyncio.create_task(self._read_stderr())
        try:
            await self._read_messages()
            # A child that closed its stdout and still runs can send no result.
            await asyncio.wait((stderr_reader,), timeout=_STDERR_SECONDS)
            await self._queue.put(None)
            await stderr_reader
        finally:
            stderr_reader.cancel()

    async def _read_messages(self) -> None:
        while True:
            try:
                line = await self.stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
                if not line:
                    return
            except asyncio.LimitOverrunError:
                await self._queue.put(
                    ChildProtocolError(
                        "The child process wrote a message of more than "
                        f"{MAX_LINE_BYTES:,} bytes to its stdout."
                    )
                )
                return
            try:
                await self._queue.put(parse_line(line))
            except ChildProtocolError as error:
                await self._queue.put(error)

    async def _read_stderr(self) -> None:
        splitter = LineSplitter()
        while chunk := await self.stderr.read(_READ_BYTES):
            await self._log(splitter.feed(chunk))
        await self._log(splitter.rest())

    async def _log(self, lines: list[str]) -> None:
        self._stderr_tail.extend(lines)
        for line in lines:
            await self._queue.put(LogMessage(message=line, logger="stderr"))


async def _started(command: ChildCommand, marker: str, lifeline: int, writer: int) -> _Started:
    """Start the process in a thread. If that fails or is cancelled, close `writer`."""
    started: _Started | None = None

    async def start() -> _Started:
        nonlocal started
        started = await PROCESSES.run(_start, command, marker, lifeline)
        return started

    try:
        return await run_shielded(start())
    except BaseException:
        os.close(writer)  # kills what was started
        if started is not None:
            for listener in started.listeners:
                listener.close()
            await run_shielded(PROCESSES.run(started.popen.__exit__, None, None, None))
        if command.sandbox is not None:
            await run_shielded(PROCESSES.run(command.sandbox.clean))
        raise
    finally:
        os.close(lifeline)


def _start(command: ChildCommand, marker: str, lifeline: int) -> _Started:
    command.user.let_read(command.reads)
    if command.inner is None:
        command.user.own(command.workdir)
    sandbox = command.sandbox
    if sandbox is None:
        return _Started(_popen(command, marker, lifeline))
    command.user.let_through((*sandbox.reads, *command.shows))
    arguments = sandbox.command(
        command.arguments, workdir=command.workdir, shows=command.shows, writes=command.writes
    )
    confined = replace(
        command,
        arguments=tuple(arguments),
        limits=sandbox.limits(command.limits.memory),
        user=sandbox.outside_user or command.user,
    )
    if not command.servers or sandbox.shares_network:
        return _Started(_popen(confined, marker, lifeline, sandbox.namespace()))
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            ports = tuple(each.port for each in command.servers)
            namespace = sandbox.namespace(theirs.fileno(), ports)
            popen = _popen(confined, marker, lifeline, namespace)
        return _Started(popen, received_listeners(ours, len(ports), sandbox.start_seconds))


async def serve_listeners(
    servers: Sequence[LoopbackPort], listeners: Sequence[socket.socket]
) -> None:
    """Have each server serve its listening socket; there are as many of both, or no sockets."""
    for server, listener in zip(servers, listeners, strict=False):
        await server.serve(listener)


def received_listeners(channel: socket.socket, count: int, seconds: float) -> list[socket.socket]:
    """Return the listening sockets that a child sends over `channel` within `seconds`.

    None of them for a child that ended before, whose stderr says why, and for what is not exactly
    `count` such sockets. Blocks.
    """
    channel.settimeout(seconds)
    try:
        _, numbers, _, _ = socket.recv_fds(channel, 1, count)
    except OSError:
        return []
    found: list[socket.socket] = []
    for number in numbers:
        try:
            found.append(socket.socket(fileno=number))
        except OSError:  # it is no socket
            os.close(number)
    if len(found) == count and all(map(_listens, found)):
        return found
    for each in found:
        each.close()
    return []


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _popen(
    command: ChildCommand, marker: str, lifeline: int, namespace: Namespace | None = None
) -> subprocess.Popen[bytes]:
    name, _, value = marker.partition("=")
    channel = () if namespace is None or namespace.channel is None else (namespace.channel,)
    with _current(command) as place:
        return subprocess.Popen(
            guarded_command(
                command.arguments,
                limits=command.limits,
                death_signal=signal.SIGKILL,
                become=command.user.ids,
                lifeline=lifeline,
                namespace=namespace,
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**command.environment, name: value},
            cwd=place,
            pass_fds=(lifeline, *channel, *command.passes),
            start_new_session=True,
        )


@contextlib.contextmanager
def _current(command: ChildCommand) -> Iterator[Path]:
    """Give the block the working directory, by its descriptor where its path may be a link now."""
    inner = command.inner
    if inner is None:
        yield command.workdir
        return
    with inner.opened() as place:
        yield Path(f"/proc/self/fd/{place}")
