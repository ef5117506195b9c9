"""Claude Code's process as a worker holds it: its environment, its start, its certain end."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

import claude_agent_sdk

from celeriac.agents.claude import supervisor
from celeriac.agents.claude.directories import RUN_PREFIX
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.process import (
    ProcessIdentity,
    children_descriptor_limit,
    send_signal,
    still_running,
    terminate_group_async,
)
from celeriac.kit.shielding import despite_cancellation
from celeriac.kit.users import ChildUser

_MARKER = "CELERIAC_CHILD"
_GRACE_SECONDS = 1.8
"""A little longer than the supervisor gives Claude Code."""

_POLL_SECONDS = 0.02

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

    def __init__(self, directory: Path, environment: Mapping[str, str], user: ChildUser) -> None:
        name, value = _MARKER, uuid4().hex
        self.environment = {**environment, name: value}
        self.program = directory / "claude"
        self.directory = directory
        self._user = user
        self._marker = f"{name}={value}"
        self._record = directory / "pid"

    @classmethod
    @asynccontextmanager
    async def prepared(
        cls, environment: Mapping[str, str], place: Path, user: ChildUser
    ) -> AsyncIterator[Self]:
        """Give the block a process to start, as `user`; at its end nothing of that is left.

        Its files lie in a directory of `place`, from where programs can be run: many machines
        forbid that for /tmp. Raises AgentMisconfiguredError where there is no Claude Code to start.
        """
        with tempfile.TemporaryDirectory(prefix=RUN_PREFIX, dir=place) as name:
            process = cls(Path(name), environment, user)
            process.write_program()
            try:
                yield process
            finally:
                await despite_cancellation(process.end())

    def write_program(self) -> None:
        """Write what the SDK starts in place of Claude Code."""
        names = ",".join((*self.environment, *_ADDED_BY_SDK))
        ids = self._user.ids
        command = (
            sys.executable, "-P", supervisor.__file__,
            str(os.getpid()), str(self._record), f"{ids.user}:{ids.group}" if ids else "", names,
            find_cli(),
        )  # fmt: skip
        # The SDK starts it without our guard, which would reset the worker's own limit.
        descriptors = children_descriptor_limit()
        limit = "" if descriptors is None else f"ulimit -S -n {descriptors}\n"
        self.program.write_text(f'#!/bin/sh\n{limit}exec {shlex.join(command)} "$@"\n')
        self.program.chmod(0o700)

    def write_file(self, name: str, text: str) -> Path:
        """Write a file for Claude Code's start; nobody else can read it."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        self._user.give_file(path)
        return path

    def forget_files(self) -> None:
        """Remove what Claude Code has read at its start: it may hold secrets of MCP servers."""
        for path in self.directory.iterdir():
            if path not in {self.program, self._record}:
                path.unlink()

    async def end(self) -> None:
        """End the process with all that came from it, whatever state it is in."""
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


def find_cli() -> str:
    """Return the path of Claude Code: the SDK's own, else that on the PATH."""
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
