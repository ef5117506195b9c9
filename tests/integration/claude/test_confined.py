"""Claude Code in a sandbox: its commands see and reach nothing of the worker."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from celeriac.agents.child.process import Confinement
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject, loads
from tests.support.claude_jobs import claude_job
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
    (worked, *refused, left) = answers
    assert worked == [False, "noted\ntoken: for the shop"]
    assert [failed for failed, _ in refused] == [True] * len(refused), refused
    assert "s3cret" not in str(answers)
    assert not left[0], left
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    assert (work / "note.txt").read_text() == "noted\n"
    running = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert [each for each in running if each and str(mark) in each] == []
    assert context.calls, "the model was reached, and metered"
