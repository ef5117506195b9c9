"""Claude Code in a sandbox: its commands see and reach nothing of the worker."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import psutil
import pytest
from claude_agent_sdk import project_key_for_directory

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.environment import Sandboxed, SessionDirectories
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.agents.claude.session_store import write_conversation
from celeriac.domain.errors import MemoryLimitError, SessionUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import TranscriptKey
from celeriac.kit.json_types import JsonObject, loads
from celeriac.kit.sandbox import LoopbackPort, Sandbox, WholeLimits
from celeriac.testing.context import MemoryTranscripts
from tests.support.claude_jobs import claude_job, session_of
from tests.support.confined import confined
from tests.support.run_context import RecordingContext
from tests.support.sandboxes import confined_user, sandbox_for

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12", "F4")]


@pytest.fixture
def bounds(tmp_path: Path) -> Confinement:
    """Bounds with a sandbox that hides a home with a secret."""
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "admin_api_key").write_text("s3cret-of-the-administrator\n")
    for path in (tmp_path, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    bounds = confined(os.environ, "SHOP_TOKEN", user=confined_user())
    return replace(bounds, sandbox=sandbox_for(home))


def command(text: str) -> tuple[str, JsonObject]:
    return "Bash", {"command": text, "description": "try"}


async def test_its_commands_see_nothing_of_the_worker(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    """They work in their directory, reach nothing, and leave nothing behind."""
    secret, mark = tmp_path / "home" / "secrets" / "admin_api_key", uuid4().int % 10**6 + 10**6
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        calls = [
            command("echo noted > note.txt && cat note.txt && echo token: $SHOP_TOKEN"),
            command(f"cat {secret}"),
            command(f"ln -s {secret} link && cat link"),
            command(f"ls {tmp_path / 'home'}"),
            command(f"cat /proc/{os.getpid()}/environ"),
            command(f"echo x > /dev/tcp/127.0.0.1/{port}"),
            command("echo x > /dev/tcp/169.254.169.254/80"),
            command("curl -sSf http://evil.example.com/"),
            command("echo x > /usr/bin/x"),
            command(
                f"(setsid sleep {mark} >/dev/null 2>&1 &) ; sleep 0.1; pgrep -fc 'sleep {mark}'"
            ),
        ]
        job = claude_job(
            f"|{json.dumps(calls)}| [calls]",
            allowed_tools=("*",),
            tools=("Bash",),
            environment=("SHOP_TOKEN",),
        )

        outcome = await runner.run(job, context)

        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert isinstance(outcome, Completed)
    answers = loads(outcome.result)
    assert isinstance(answers, list)
    (worked, *failures, left) = answers
    assert worked == [False, "noted\ntoken: for the shop"]
    assert [failed for failed, _ in failures] == [True] * len(failures), failures
    assert "s3cret" not in str(answers)
    assert not left[0], left
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    assert (work / "note.txt").read_text() == "noted\n"
    running = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert [each for each in running if each and str(mark) in each] == []
    assert context.calls, "the model was reached, and metered"
    refused = [data for kind, data in context.events if kind is EventType.NETWORK_REFUSED]
    assert [(each["host"], each["rule"]) for each in refused] == [
        ("evil.example.com", "not_allowed")
    ], "Claude Code itself asks for nothing"


async def test_the_memory_of_its_commands_together_is_limited(
    runner: ClaudeRunner, bounds: Confinement, context: RecordingContext
) -> None:
    """Memory of Claude Code and of all its commands counts; the attempt ends at once."""
    assert bounds.sandbox is not None
    limited = replace(bounds.sandbox, whole=WholeLimits(memory=900 * 1024**2))
    filling = "import os, time; kept = bytearray(os.urandom(240 << 20)); time.sleep(600)"
    calls = [command(f"for i in 1 2 3 4 5; do python3 -c '{filling}' & done; wait")]
    job = claude_job(f"|{json.dumps(calls)}| [calls]", allowed_tools=("*",), tools=("Bash",))

    with pytest.raises(MemoryLimitError, match="their limit is 900 MB"):
        await replace(runner, confinement=replace(bounds, sandbox=limited)).run(job, context)


async def test_a_confined_session_is_forked(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job(f"|{json.dumps([command('echo noted > note.txt')])}| [calls]",
                     allowed_tools=("*",), tools=("Bash",))  # fmt: skip
    assert isinstance(await runner.run(job, context), Completed)
    fork = RecordingContext(context.workdir)
    forked = claude_job(
        "[remember] Who?",
        session=session_of(context, job.execution_id),
        options=RunOptions(fork_session=True),
    )

    assert isinstance(await runner.run(forked, fork), Completed)

    work = tmp_path / "sessions" / str(fork.session_id) / "work"
    assert (work / "note.txt").read_text() == "noted\n"


@pytest.mark.parametrize("whole", [False, True])
async def test_links_of_an_agent_lead_nowhere_when_its_conversation_is_written(
    bounds: Confinement, tmp_path: Path, whole: bool
) -> None:
    """The worker writes conversations, also where the agent itself can't."""
    outside, mine = tmp_path / "outside", SessionDirectories.of(tmp_path / "sessions", uuid4())
    outside.mkdir()
    outside.chmod(0o777)
    mine.make(bounds.user)
    project = project_key_for_directory(mine.work)
    if not whole:
        (mine.config / "projects").mkdir()
    link = mine.config / "projects" / ("" if whole else project)
    link.symlink_to(outside)
    transcripts = MemoryTranscripts(uuid4())
    await transcripts.append(TranscriptKey("c1"), [{"type": "user"}, {"type": "assistant"}])

    await write_conversation(transcripts, "c1", mine.config, mine.work, bounds.user)

    assert list(outside.iterdir()) == []
    written = mine.config / "projects" / project / "c1.jsonl"
    assert not written.parent.is_symlink()
    assert written.read_text().splitlines() == ['{"type":"user"}', '{"type":"assistant"}']
    with pytest.raises(SessionUnavailableError):
        await write_conversation(transcripts, "c2", mine.config, mine.work, bounds.user)


async def test_who_sends_something_else_to_the_worker_s_socket_does_not_stop_it(
    tmp_path: Path,
) -> None:
    """What is no socket is thrown away, and the next listening socket is served."""
    served: asyncio.Queue[socket.socket] = asyncio.Queue()
    sandboxed = Sandboxed(
        Sandbox(), SessionDirectories(tmp_path, tmp_path), (), (LoopbackPort(1, served.put),)
    )
    async with sandboxed.serving():
        with open(os.devnull) as file, socket.create_server(("127.0.0.1", 0)) as listener:  # noqa: ASYNC230, PTH123
            for number in (file.fileno(), listener.fileno()):
                with socket.socket(socket.AF_UNIX) as channel:
                    channel.connect(f"\0{sandboxed.name}")
                    socket.send_fds(channel, [b"."], [number])
            with await asyncio.wait_for(served.get(), 10) as got:
                assert got.getsockname() == listener.getsockname()


async def test_a_worker_without_descriptors_takes_the_listening_sockets_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: asyncio.Queue[socket.socket] = asyncio.Queue()
    sandboxed = Sandboxed(
        Sandbox(), SessionDirectories(tmp_path, tmp_path), (), (LoopbackPort(1, served.put),)
    )
    accept, failures = socket.socket.accept, [OSError(errno.EMFILE, "Too many open files")]

    def later(listener: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", later)
    async with sandboxed.serving():
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(socket.AF_UNIX) as channel,
        ):
            channel.connect(f"\0{sandboxed.name}")
            socket.send_fds(channel, [b"."], [listener.fileno()])
            with await asyncio.wait_for(served.get(), 20) as got:
                assert got.getsockname() == listener.getsockname()
    assert failures == []


STRANGER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as channel, socket.create_server(("127.0.0.1", 0)) as listener:
    channel.connect(chr(0) + sys.argv[1])
    socket.send_fds(channel, [b"."], [listener.fileno()])
    channel.settimeout(5)
    channel.recv(1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as another user")
@pytest.mark.parametrize(("network", "stranger", "served"), [
    ("none", False, 1), ("none", True, 0), ("host", False, 0),
])  # fmt: skip
async def test_sockets_of_strangers_are_not_served(
    bounds: Confinement, tmp_path: Path, network: str, stranger: bool, served: int
) -> None:
    """They could keep them, and make the worker's event loop block in an accept."""
    taken: list[socket.socket] = []

    async def serve(listener: socket.socket) -> None:
        taken.append(listener)

    assert bounds.sandbox is not None
    assert bounds.user.ids is not None
    bounds.user.let_read([Path(sys.executable)])
    user = bounds.user.ids.user if stranger else None
    sandbox = replace(bounds.sandbox, shares_network=network == "host")
    directories = SessionDirectories.of(tmp_path / "sessions", uuid4())
    sandboxed = Sandboxed(sandbox, directories, (), (LoopbackPort(1, serve),))
    command = (sys.executable, "-I", "-S", "-c", STRANGER, sandboxed.name)
    async with sandboxed.serving():
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(
                command, capture_output=True, check=False, user=user, cwd="/", env={}
            )
        )
    for each in taken:
        each.close()

    assert len(taken) == served, done.stderr
    assert (b"ConnectionRefused" in done.stderr) is (network == "host"), done.stderr
