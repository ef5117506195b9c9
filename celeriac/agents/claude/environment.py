"""Claude Code's process: its environment, the directories of its session, its options and its end.

    <root>/<session id>/work      the working directory; its files are the session's
    <root>/<session id>/config    Claude Code's HOME and configuration: transcripts above all

The directories are kept, so that a later attempt on the same machine needs no others. Another one
restores the files from the object store (`services/files`) and the conversation from the database
(`session_store.py`).
"""

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import claude_agent_sdk
from claude_agent_sdk import ClaudeAgentOptions, HookMatcher, McpSdkServerConfig
from claude_agent_sdk.types import SessionStore

from celeriac.agents.child.process import MARKER, received_listeners, serve_listeners
from celeriac.agents.child.whole_limits import within_limits
from celeriac.agents.claude import supervisor
from celeriac.agents.claude.conversation import ResumeState
from celeriac.agents.claude.labelling import LABEL_SERVER
from celeriac.agents.claude.permissions import Permissions, server_key
from celeriac.agents.output import ObjectSchema
from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.files import remove_tree
from celeriac.kit.json_types import dumps
from celeriac.kit.loop import run_shielded
from celeriac.kit.processes import (
    ProcessIdentity,
    children_descriptor_limit,
    send_signal,
    still_running,
    terminate_group_async,
)
from celeriac.kit.sandbox import LoopbackPort, Sandbox
from celeriac.kit.threads import PROCESSES
from celeriac.kit.users import ChildUser
from celeriac.logs import get_logger

logger = get_logger(__name__)

SWITCHES: Mapping[str, str] = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    # An execution ends with its result: nothing may continue in the background.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    # Ten by default, which take three minutes; more retries are the task's own.
    "CLAUDE_CODE_MAX_RETRIES": "2",
}
"""Variables of Claude Code's environment that are the same for all agents."""

RUN_PREFIX = "run-"
"""Begins the names of the attempts' own directories."""

_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class SessionDirectories:
    """The two directories of one session."""

    work: Path
    config: Path
    inner: str | None = None
    """The directory in `work` in which Claude Code works, if not there."""

    @classmethod
    def of(cls, root: Path, session_id: UUID, inner: str | None = None) -> "SessionDirectories":
        """Name the directories; nothing is created."""
        place = root.absolute() / str(session_id)
        return cls(place / "work", place / "config", inner)

    @property
    def start(self) -> Path:
        """The current directory of Claude Code, which its file tools don't leave."""
        return self.work if self.inner is None else self.work / self.inner

    @property
    def place(self) -> Path:
        """The directory of both; each running attempt has its own directory in it."""
        return self.work.parent

    def make(self, user: ChildUser) -> None:
        """Make what isn't there, and remove what attempts have left that were killed.

        Both belong to `user`, what is above them doesn't. Raises UnreachableError.
        """
        self.place.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        for directory in (self.work, self.config):
            user.own(directory)
        for left in self.place.glob(f"{RUN_PREFIX}*"):
            remove_tree(left)


_GRACE_SECONDS = 1.8
"""Seconds; longer than the supervisor waits for Claude Code."""

_POLL_SECONDS = 0.02
_ACCEPT_PAUSE_SECONDS = 0.5

_ADDED_BY_SDK = (
    "CLAUDE_AGENT_SDK_VERSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SDK_READS_SESSION_STATE",
    "PWD",
    "TRACEPARENT",
    "TRACESTATE",
)


class CliProcess:
    """What the SDK is given to start, and how all of it is ended.

    The SDK adds the environment that it is given to the worker's own; the supervisor, which it
    starts for Claude Code, takes the worker's away again.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        user: ChildUser,
        sandboxed: "Sandboxed | None" = None,
    ) -> None:
        marker = uuid4().hex
        self.environment = {**environment, MARKER: marker}
        self.program = directory / "claude"
        self._directory = directory
        self._user = user
        self._sandboxed = sandboxed
        self._marker = f"{MARKER}={marker}"
        self._record = directory / "pid"

    @classmethod
    @asynccontextmanager
    async def prepared(
        cls,
        environment: Mapping[str, str],
        place: Path,
        user: ChildUser,
        sandboxed: "Sandboxed | None" = None,
    ) -> AsyncIterator[Self]:
        """Give the block a process to start, as `user`; at its end nothing of that is left.

        Its files lie in a directory of `place`, from where programs can be run: many machines
        forbid that for /tmp. Raises AgentMisconfiguredError where there is no Claude Code to start.
        """
        with tempfile.TemporaryDirectory(prefix=RUN_PREFIX, dir=place) as name:
            process = cls(Path(name), environment, user, sandboxed)
            async with AsyncExitStack() as stack:
                if sandboxed is not None:
                    user.let_through([process.program])
                    await stack.enter_async_context(sandboxed.serving())
                process.write_program()
                try:
                    with process._within_limits():
                        yield process
                finally:
                    await run_shielded(process.end())

    def _within_limits(self) -> AbstractContextManager[None]:
        if self._sandboxed is None:
            return nullcontext()
        sandboxed = self._sandboxed
        written = (sandboxed.directories.work, sandboxed.directories.config)
        return within_limits(sandboxed.sandbox, self._supervisor, written)

    @property
    def _outside(self) -> ChildUser:
        """The user of what the supervisor starts."""
        sandboxed = self._sandboxed
        return (None if sandboxed is None else sandboxed.sandbox.outside_user) or self._user

    def write_program(self) -> None:
        """Write what the SDK starts in place of Claude Code."""
        names = ",".join((*self.environment, *_ADDED_BY_SDK))
        ids = self._outside.ids
        bounds, line = "", [find_cli()]
        if self._sandboxed is not None:
            bounds, line = self._sandboxed.start(line, self._directory)
        command = (
            sys.executable, "-P", supervisor.__file__,
            str(os.getpid()), str(self._record), f"{ids.user}:{ids.group}" if ids else "", names,
            bounds, *line,
        )  # fmt: skip
        # The SDK starts it without our guard, which would reset the worker's own limit.
        descriptors = children_descriptor_limit()
        limit = "" if descriptors is None else f"ulimit -S -n {descriptors}\n"
        self.program.write_text(f'#!/bin/sh\n{limit}exec {shlex.join(command)} "$@"\n')
        self.program.chmod(0o700)

    def write_file(self, name: str, text: str) -> Path:
        """Write a file for Claude Code's start, which only its user can read."""
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        self._user.give_file(path)
        return path

    def forget_files(self) -> None:
        """Remove the files read at the start: they may hold secrets of MCP servers."""
        for path in self._directory.iterdir():
            if path not in {self.program, self._record}:
                path.unlink()

    async def end(self) -> None:
        """End the process and all its descendants, in any state."""
        supervising = self._supervisor()
        if supervising is None:
            return
        # The supervisor does it best: it knows what tools have left behind. Asked alone first,
        # since it ends the others in order.
        send_signal(supervising, signal.SIGTERM)
        for _ in range(round(_GRACE_SECONDS / _POLL_SECONDS)):
            if not still_running(supervising):
                break
            await asyncio.sleep(_POLL_SECONDS)
        await terminate_group_async(supervising, 0.0, marker=self._marker)

    def _supervisor(self) -> ProcessIdentity | None:
        try:
            pid, started = self._record.read_text().split()
        except (FileNotFoundError, ValueError):
            return None  # never started, or not that far
        return ProcessIdentity(int(pid), started=int(started))


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """The sandbox of Claude Code, of its tools and of its MCP servers over stdio.

    They write to the session's `directories`, see the files of `programs`, and reach `servers`.
    """

    sandbox: Sandbox
    directories: SessionDirectories
    programs: tuple[Path, ...]
    servers: tuple[LoopbackPort, ...]
    name: str = field(default_factory=lambda: f"celeriac-{uuid4().hex}")
    """Of the abstract Unix socket to which the supervisor connects."""

    def start(self, line: list[str], directory: Path) -> tuple[str, list[str]]:
        """Return the settings of the supervisor, and the command that runs `line` inside.

        `directory` has the files that it reads at its start.
        """
        bounds = supervisor.Bounds(
            alone=not self.sandbox.shares_network,
            elsewhere=self.sandbox.namespace().elsewhere,
            ports=[each.port for each in self.servers],
            name=self.name,
            limits=asdict(self.sandbox.limits(None)),
        )
        files = (each for each in self.programs if each.is_file())
        command = self.sandbox.command(
            line,
            workdir=self.directories.start,
            shows=(Path(line[0]), directory, *files),
            writes=(self.directories.work, self.directories.config),
        )
        return bounds.text(), command

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Take the listening sockets that come over the Unix socket, and serve them.

        In the machine's network nobody sends one, and agents could. At the end the sandbox is
        removed.
        """
        try:
            async with self._receiving():
                yield
        finally:
            await run_shielded(PROCESSES.run(self.sandbox.clean))

    @asynccontextmanager
    async def _receiving(self) -> AsyncIterator[None]:
        if self.sandbox.shares_network:
            yield
            return
        with socket.socket(socket.AF_UNIX) as receiver:
            receiver.bind(f"\0{self.name}")
            receiver.listen()
            receiver.settimeout(0)
            receiving = asyncio.create_task(self._receive(receiver), name="sandbox listeners")
            try:
                yield
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, receiver: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                channel, _ = await loop.sock_accept(receiver)
            except OSError as error:  # as where the worker has no descriptors left
                logger.warning("sandbox.accept_failed", error=str(error))
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            with channel:
                if not _is_ours(channel):
                    continue  # a sender that keeps its socket can make the worker block
                listeners = await PROCESSES.run(
                    received_listeners, channel, len(self.servers), self.sandbox.start_seconds
                )
            await serve_listeners(self.servers, listeners)


_CREDENTIALS = struct.Struct("3i")  # unix(7): pid, user, group


def _is_ours(channel: socket.socket) -> bool:
    """Whether a process of our user has connected: the supervisor is one, agents of root aren't."""
    size = _CREDENTIALS.size
    sent = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(_CREDENTIALS.unpack(sent)[1] == os.geteuid())


def find_cli() -> str:
    """Return the path of Claude Code: the SDK's, else the one on the PATH."""
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    if bundled.is_file():
        return str(bundled)
    found = shutil.which("claude")
    if found is None:
        raise AgentMisconfiguredError(
            "There is no Claude Code on this worker: install a wheel of claude-agent-sdk for its "
            "platform, or put `claude` on its PATH.",
            field="runner",
        )
    return found


_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")

_HOOK_SECONDS = 3_600.0
"""Time limit of a decision about a call: the model must finish its answer first."""

_FOR_EVER_DAYS = 36_500
"""Sessions are kept until Celeriac's own retention removes them."""


def sdk_options(
    spec: ClaudeAgent,
    start: ResumeState,
    *,
    workdir: Path,
    process: CliProcess,
    permissions: Permissions,
    servers: Mapping[str, Any],
    own_servers: Mapping[str, McpSdkServerConfig],
    output: ObjectSchema | None,
    on_stderr: Callable[[str], None],
    store: SessionStore,
) -> ClaudeAgentOptions:
    """Return the options of one attempt.

    Nothing is taken from settings files, for an agent may have written them. Rules are
    not given here: the hook judges every call. Long and secret values go by files that only the
    attempt has, since any user of the machine may read the arguments of a process. `own_servers`
    run in this process.
    """
    hook = HookMatcher(hooks=[permissions.before_call], timeout=_HOOK_SECONDS, on_failure="block")
    files: dict[str, str | None] = {}
    if spec.instructions:
        path = process.write_file("instructions", spec.instructions)
        files["append-system-prompt-file"] = str(path)
    if servers:
        files["mcp-config"] = str(process.write_file("mcp.json", dumps({"mcpServers": servers})))
    return ClaudeAgentOptions(
        cwd=workdir,
        cli_path=process.program,
        env=dict(process.environment),
        setting_sources=[],
        settings=_settings(spec),
        strict_mcp_config=True,
        mcp_servers=dict(own_servers),
        model=spec.model,
        system_prompt={"type": "preset", "preset": "claude_code"},
        extra_args=files,
        tools=list(spec.tools),
        disallowed_tools=[each for each in spec.denied_tools if _PLAIN_NAME.fullmatch(each)],
        skills=[],
        permission_mode="default",
        can_use_tool=permissions.can_use_tool,
        hooks={"PreToolUse": [hook]},
        max_turns=spec.max_turns,
        session_store=store,
        session_store_flush="eager",
        resume=start.resume,
        fork_session=start.forks,
        output_format={"type": "json_schema", "schema": output.asked} if output else None,
        include_partial_messages=True,
        verbatim_prompts=True,
        max_buffer_size=_MAX_MESSAGE_BYTES,
        stderr=on_stderr,
    )


def _settings(spec: ClaudeAgent) -> str:
    """Return Claude Code's settings: every tool call asks for permission.

    An open call is taken up before the hook is in force, and Claude Code by itself lets commands
    run that only read; so does a hook that could not answer. A rule to ask stops both.
    """
    servers = [server_key(each.name) for each in spec.mcp_servers]
    if spec.may_label:
        servers.append(LABEL_SERVER)
    tools = [*spec.tools, *(f"mcp__{name}" for name in servers)]
    return dumps({"cleanupPeriodDays": _FOR_EVER_DAYS, "permissions": {"ask": tools}})
