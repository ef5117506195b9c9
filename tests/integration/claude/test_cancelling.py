"""However a run ends, nothing of it is left."""

import asyncio
from pathlib import Path

import psutil
import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.executions.model import Completed
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job
from tests.support.claude_processes import processes_of
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12", "C5")]

DAEMON = "env -i PATH=$PATH setsid nohup sleep 500 >/dev/null 2>&1 &"
"""A process that cuts every tie with its parents."""


async def test_a_cancelled_run_leaves_no_process(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    command = f"{DAEMON} sleep 400"
    job = claude_job(f"[shell] |{command}|", allowed_tools=("Bash",))

    def runs() -> bool:
        return any(each == "sleep 400" for each in processes_of(tmp_path))

    run = asyncio.create_task(runner.run(job, context))
    await asyncio.to_thread(wait_until, runs, "the command runs")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert processes_of(tmp_path) == []
    assert context.external_id is not None, "the conversation was written down"


async def test_a_frozen_claude_code_is_ended_too(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path, anthropic: AnthropicServer
) -> None:
    run = asyncio.create_task(runner.run(claude_job("[stalled]"), context))
    await asyncio.to_thread(wait_until, lambda: anthropic.received, "it asks")
    record = next((tmp_path / "sessions").glob("*/run-*/pid"))
    for process in psutil.Process(int(record.read_text().split()[0])).children(recursive=True):
        process.suspend()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert processes_of(tmp_path) == []


async def test_a_finished_run_leaves_no_process(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job(f"[shell] |{DAEMON} echo done|", allowed_tools=("Bash",))

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert outcome.result.strip() == "done"
    assert processes_of(tmp_path) == []
