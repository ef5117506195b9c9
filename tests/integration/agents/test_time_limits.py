"""Soft limits, hard limits and cancellation, as the pipeline applies them."""

import asyncio
import sys
from pathlib import Path

import pytest

from celeriac.agents.child import launcher
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import ErrorMessage
from celeriac.agents.child.run import describe_job
from celeriac.agents.python import child_work
from celeriac.domain.errors import HardTimeLimitError, SoftTimeLimit
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.tasks import Limits
from celeriac.kit.processes import ProcessIdentity, ResourceLimits, identify, still_running
from celeriac.services.ports import Job
from tests.support.run_context import FUNCTIONS, RecordingContext, python_job
from tests.support.runners import PythonRunner
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

SHORT = Limits(soft_seconds=2, hard_seconds=4, memory_mb=256)


async def run_limited(runner: PythonRunner, job: Job, context: RecordingContext) -> Completed:
    """Run as the pipeline does: the limits begin, and the soft limit is a cancellation."""
    context.time_limits.begin(job.limits)
    async with context.time_limits.soft():
        return await runner.run(job, context)


async def family_of(note: Path) -> list[ProcessIdentity]:
    await asyncio.to_thread(wait_until, note.exists, "the child has started its processes")
    family = [identify(int(pid)) for pid in note.read_text().split()]  # noqa: ASYNC240
    return [each for each in family if each is not None]


async def test_a_function_that_catches_the_soft_limit_may_still_return(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = python_job("wind_up", limits=SHORT, note=str(tmp_path / "note"), after="return")

    assert await run_limited(runner, job, context) == Completed("partial")


async def test_a_function_that_lets_the_soft_limit_through_fails_with_it(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = python_job("wind_up", limits=SHORT, note=str(tmp_path / "note"), after="raise")

    with pytest.raises(SoftTimeLimit) as raised:
        await run_limited(runner, job, context)

    assert "time.sleep(60)" in raised.value.details["traceback"], "it says where the time went"


async def test_a_soft_limit_that_passes_while_the_child_starts_is_not_lost(
    context: RecordingContext, tmp_path: Path
) -> None:
    job = python_job("wind_up", note=str(tmp_path / "note"), after="raise")
    python = {"function": f"{FUNCTIONS}:wind_up", "allowed_modules": [FUNCTIONS]}
    start = {"type": "start", "job": describe_job(job, context), "python": python}
    command = ChildCommand(
        arguments=(sys.executable, "-P", launcher.__file__, child_work.__name__),
        environment={},
        workdir=tmp_path,
        limits=ResourceLimits(),
    )
    async with ChildProcess.spawn(command) as child:
        child.send({**start, "sys_path": sys.path})
        child.send({"type": "soft_limit"})
        message = await child.next_message()

    assert isinstance(message, ErrorMessage)
    assert message.error.code == SoftTimeLimit.code


async def test_a_function_that_ignores_the_soft_limit_is_killed_at_the_hard_one(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = python_job("wind_up", limits=SHORT, note=str(tmp_path / "note"), after="ignore")

    with pytest.raises(HardTimeLimitError, match="hard limit of 4 s"):
        await run_limited(runner, job, context)


async def test_the_hard_limit_ends_all_processes_of_a_child_that_ignores_everything(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    job = python_job("hang_with_processes", limits=SHORT, note=str(note), stubborn=True)
    context.time_limits.begin(SHORT)
    running = asyncio.ensure_future(runner.run(job, context))
    family = await family_of(note)

    with pytest.raises(HardTimeLimitError):
        await running

    assert len(family) == 4
    assert not [each for each in family if still_running(each)]


async def test_cancelling_ends_all_processes_of_a_child_before_it_returns(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    job = python_job("hang_with_processes", note=str(note), stubborn=True)
    running = asyncio.ensure_future(runner.run(job, context))
    family = await family_of(note)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(family) == 4
    assert not [each for each in family if still_running(each)]


async def test_cancelling_twice_leaves_nothing_behind_either(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    job = python_job("hang_with_processes", note=str(note), stubborn=True)
    running = asyncio.ensure_future(runner.run(job, context))
    family = await family_of(note)

    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not [each for each in family if still_running(each)]


async def test_a_cancelled_function_runs_its_finally_blocks(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    running = asyncio.ensure_future(runner.run(python_job("clean_up", note=str(note)), context))
    await asyncio.to_thread(wait_until, note.exists, "the function runs")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert note.read_text() == "cleaned up"


async def test_a_cancelled_coroutine_runs_its_finally_blocks(
    runner: PythonRunner, context: RecordingContext
) -> None:
    running = asyncio.ensure_future(runner.run(python_job("wait_for_cancel"), context))
    await asyncio.to_thread(wait_until, lambda: context.events, "the coroutine runs")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert context.events[-1] == (EventType.CUSTOM, {"name": "cleaned up", "data": {}})
