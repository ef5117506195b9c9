"""However a child process ends, the worker says what happened, and nothing of it is left."""

import signal
from pathlib import Path

import pytest

from celeriac.domain.errors import CeleriacError, ChildCrashedError, MemoryLimitError
from celeriac.domain.tasks import Limits
from celeriac.kit.processes import identify, still_running
from celeriac.services.executions.raised import describe
from tests.support.agent_functions import UNTOLD
from tests.support.run_context import RecordingContext, python_job
from tests.support.runners import PythonRunner
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("how", "message", "name"),
    [
        ("abort", "was killed by SIGABRT", "SIGABRT"),
        ("segfault", "was killed by SIGSEGV .* Segmentation fault", "SIGSEGV"),
    ],
)
async def test_a_signal_is_named(
    runner: PythonRunner, context: RecordingContext, how: str, message: str, name: str
) -> None:
    with pytest.raises(ChildCrashedError, match=message) as raised:
        await runner.run(python_job("end", how=how), context)

    details = raised.value.details
    assert details["signal"] == name
    assert details["exit_code"] == -signal.Signals[name]
    assert "in end" in details["stderr"], "the stack at the crash is kept"


async def test_an_exit_without_a_result_is_reported_with_its_code(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with pytest.raises(ChildCrashedError, match="exited with code 7 and no result") as raised:
        await runner.run(python_job("end", how="os._exit"), context)

    assert raised.value.details["exit_code"] == 7


async def test_sys_exit_is_no_success(runner: PythonRunner, context: RecordingContext) -> None:
    with pytest.raises(ChildCrashedError, match=r"ended its process: SystemExit\('that is all'\)"):
        await runner.run(python_job("end", how="sys.exit"), context)


async def test_memory_is_limited(runner: PythonRunner, context: RecordingContext) -> None:
    limits = Limits(soft_seconds=50, hard_seconds=60, memory_mb=128)
    fitting = await runner.run(python_job("allocate", limits=limits, megabytes=64), context)

    with pytest.raises(MemoryLimitError, match="memory limit of 128 MB exceeded") as raised:
        await runner.run(python_job("allocate", limits=limits, megabytes=200), context)

    assert fitting.result == 64 * 1024 * 1024
    assert "in allocate" in raised.value.details["traceback"]
    assert not raised.value.retryable


async def test_processes_that_a_function_leaves_behind_are_ended(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    note = tmp_path / "pids"

    await runner.run(python_job("leave_processes", note=str(note)), context)

    left = [identify(int(pid)) for pid in note.read_text().split()]
    assert not [each for each in left if each and still_running(each)]


async def test_a_child_killed_from_outside_takes_its_processes_along(
    runner: PythonRunner, context: RecordingContext, tmp_path: Path
) -> None:
    import asyncio
    import os

    note = tmp_path / "pids"
    job = python_job("hang_with_processes", note=str(note))
    running = asyncio.ensure_future(runner.run(job, context))
    await asyncio.to_thread(wait_until, note.exists, "the child has started its processes")
    family = [identify(int(pid)) for pid in note.read_text().split()]

    assert family[0] is not None
    os.kill(family[0].pid, signal.SIGKILL)
    with pytest.raises(ChildCrashedError, match="SIGKILL, not by Celeriac"):
        await running

    assert not [each for each in family if each and still_running(each)]


@pytest.mark.parametrize("what", UNTOLD)
async def test_an_error_that_can_not_be_described_is_a_failure_and_no_crash(
    runner: PythonRunner, context: RecordingContext, what: str
) -> None:
    with pytest.raises(CeleriacError) as raised:
        await runner.run(python_job("raise_untold", what=what), context)

    failure = describe(raised.value, attempt=1).failure
    expected = "child_crashed" if what == "an exit without a text" else "agent_failed"
    assert failure.code == expected
    assert "no result" not in failure.message
    assert failure.details["type"] == type(UNTOLD[what]()).__name__
    assert "in raise_untold" in failure.details["traceback"]
