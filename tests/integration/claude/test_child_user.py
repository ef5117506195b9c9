"""Claude Code of a worker that is root: it and its tools are somebody else."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.approvals import Answer
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.executions.options import RunOptions
from celeriac.kit.files import remove_tree
from tests.support.claude_jobs import claude_job, session_of
from tests.support.claude_processes import processes_of
from tests.support.confined import AGENT_USER, agent_user, confined
from tests.support.places import temporary_directory
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12", "F4")]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of our own: pytest closes its own to other users whenever it is started."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def bounds() -> Confinement:
    return confined(os.environ, "SHOP_TOKEN", user=agent_user())


async def shell(runner: ClaudeRunner, context: RecordingContext, command: str) -> str:
    job = claude_job(f"[shell] |{command}|", allowed_tools=("Bash",), environment=("SHOP_TOKEN",))
    outcome = await runner.run(job, context)
    assert isinstance(outcome, Completed)
    return str(outcome.result)


async def test_its_commands_reach_neither_secrets_nor_the_worker_nor_the_supervisor(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    place = tmp_path / "sessions" / str(context.session_id)

    told = await shell(
        runner,
        context,
        f"id -un; echo $SHOP_TOKEN; pwd > here; cat {secret}; cat {place}/run-*/*; ls {place};"
        f" cat /proc/{os.getpid()}/environ; touch {place}/x; cat /proc/[0-9]*/environ; true",
    )

    assert told.startswith(f"{AGENT_USER}\nfor the shop\n")
    assert "s3cret" not in told
    assert "a secret of the worker" not in told, "the supervisor has the worker's environment"
    assert f"cat: /proc/{os.getpid()}/environ: Permission denied" in told
    assert sorted(each.name for each in place.iterdir()) == ["config", "work"]
    assert (place / "work" / "here").read_text() == f"{place}/work\n"
    assert remove_tree(place)


async def test_a_session_is_resumed_and_forked(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job("[shell] |echo ran; ln -s /etc door|", permission="ask")
    outcome = await runner.run(job, context)
    assert isinstance(outcome, Parked)
    following = RecordingContext(context.workdir)
    following.session_id = context.session_id
    following.given = {outcome.questions[0].key: Answer(approved=True)}
    again = replace(job, attempt=2, session=session_of(context, job.execution_id))
    done = await runner.run(again, following)
    assert isinstance(done, Completed)
    assert str(done.result).strip() == "ran"

    earlier = session_of(context, job.execution_id)
    fork = RecordingContext(context.workdir)
    forked = claude_job("[remember] Who?", session=earlier, options=RunOptions(fork_session=True))
    assert isinstance(await runner.run(forked, fork), Completed)

    copied = tmp_path / "sessions" / str(fork.session_id) / "work"
    assert (copied / "door").is_symlink()
    user = agent_user()
    assert user.ids is not None
    assert {copied.stat().st_uid, (copied / "door").lstat().st_uid} == {user.ids.user}


async def test_its_tool_servers_work_and_are_the_same_user(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job(
        "[tool] Add with |tools|.",
        mcp_servers=[{"name": "tools"}],
        allowed_tools=("mcp__tools__add",),
    )
    outcome = await runner.run(job, context)
    assert isinstance(outcome, Completed)
    assert "42" in outcome.result


async def test_a_cancelled_run_leaves_no_process(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    sessions = tmp_path / "sessions"
    command = "(setsid nohup sleep 647 &); sleep 648"
    run = asyncio.create_task(shell(runner, context, command))
    await asyncio.to_thread(
        wait_until, lambda: {"sleep 647", "sleep 648"} <= set(processes_of(sessions)), "it runs"
    )

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert processes_of(sessions) == []
