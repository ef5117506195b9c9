"""Programs that break every rule of the protocol: a clear error, and nothing of them left."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from celeriac.agents.child.run import MAX_LOG_CHARACTERS
from celeriac.domain.errors import ChildCrashedError, ChildProtocolError, HardTimeLimitError
from celeriac.domain.tasks import Limits
from celeriac.services.ports import Job
from tests.support.confined import confined
from tests.support.run_context import RecordingContext, command_job
from tests.support.runners import CommandRunner
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

SHORT = Limits(soft_seconds=0.3, hard_seconds=0.4, memory_mb=256)
MARK = "HOSTILE_MARK"
"""A variable that all processes of one test bear."""

ANSWER = """echo '{"type": "result", "value": 1}'"""


@pytest.fixture
def runner(tmp_path: Path) -> CommandRunner:
    environment = {"PATH": os.environ["PATH"], MARK: str(tmp_path)}
    return CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=confined(environment, MARK))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert left_over(tmp_path) == []


def left_over(mark: Path) -> list[str]:
    """Return the command lines of all processes that came from this test."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(mark):
                found.append(" ".join(process.cmdline()))
    return found


def shell(script: str, limits: Limits | None = None) -> Job:
    return command_job("shell", script, environment=(MARK,), limits=limits)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("echo hello", ChildProtocolError, "no message of the protocol .*'hello'.* to stderr"),
        ("head -c 100000 /dev/urandom", ChildProtocolError, "no message of the protocol"),
        ("cat /dev/zero", ChildProtocolError, "more than 16,777,216 bytes"),
        ("echo '[1]'; sleep 600", ChildProtocolError, "no message of the protocol"),
        (
            """printf '{"type": "event", "data": {"x": "'; head -c 300000 /dev/zero | tr '\\0' x
            echo '"}}'""",
            ChildProtocolError,
            "type event with 300,0.. bytes; the limit is 262,144",
        ),
        (
            """echo '{"type": "usage", "provider": "p", "model": "m", "input_tokens": 1,
            "output_tokens": 1, "cost": -5}' | tr -d '\\n'; echo""",
            ChildProtocolError,
            "usage.cost: Input should be greater than or equal to 0",
        ),
        (
            "no-such-tool",
            ChildCrashedError,
            "code 127 and no result.*no-such-tool: not found",
        ),
        ("exit 0", ChildCrashedError, "exited with code 0 and no result"),
        ("echo sorry >&2; exit 3", ChildCrashedError, "code 3 .*last line on stderr: sorry"),
        ("exec >&-; sleep 600", ChildCrashedError, "closed its stdout without a result"),
        ("kill -ABRT $$", ChildCrashedError, "killed by SIGABRT"),
    ],
)
async def test_an_invalid_answer_is_reported(
    runner: CommandRunner,
    context: RecordingContext,
    script: str,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        await runner.run(shell(script), context)


@pytest.mark.parametrize(
    "script",
    [
        "exec yes",
        """exec yes '{"type": "delta", "data": {"text": "x"}}'""",
        """exec yes '{"type": "progress", "done": 1}'""",
        """exec yes '{"type": "event", "data": {"name": "x"}}'""",
        "yes >&2",
        "trap '' TERM; while :; do sleep 600; done",
    ],
)
async def test_never_ending_output_ends_at_the_hard_limit_at_the_latest(
    runner: CommandRunner, tmp_path: Path, script: str
) -> None:
    context = RecordingContext(tmp_path, hard_seconds=SHORT.hard_seconds)
    with pytest.raises((HardTimeLimitError, ChildProtocolError)):
        await runner.run(shell(script, limits=SHORT), context)


@pytest.mark.parametrize(
    "fork",
    [
        "sleep 600 &",
        "setsid sleep 600 &",
        "(setsid sleep 600 &)",
        "nohup sleep 600 >/dev/null 2>&1 &",
    ],
)
async def test_what_a_program_leaves_running_is_ended_with_it(
    runner: CommandRunner, context: RecordingContext, fork: str
) -> None:
    outcome = await runner.run(shell(f"{fork}\n{ANSWER}"), context)

    assert outcome.result == 1


async def test_one_that_answers_and_never_ends_is_ended(
    runner: CommandRunner, context: RecordingContext
) -> None:
    script = f"{ANSWER}; {ANSWER}; trap '' TERM; while :; do sleep 600; done"
    outcome = await runner.run(shell(script), context)

    assert outcome.result == 1, "the first answer counts"


async def test_one_that_reads_nothing_of_a_large_job_may_answer(
    runner: CommandRunner, context: RecordingContext
) -> None:
    job = command_job("shell", ANSWER, text="x" * 5_000_000)

    assert (await runner.run(job, context)).result == 1


async def test_a_cancellation_ends_one_that_ignores_it(
    runner: CommandRunner, context: RecordingContext, tmp_path: Path
) -> None:
    script = "trap '' TERM; sleep 600 & while :; do sleep 601; done"
    running = asyncio.ensure_future(runner.run(shell(script), context))
    await asyncio.to_thread(
        wait_until, lambda: "sleep 601" in left_over(tmp_path), "the program runs"
    )

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_log_line_without_end_is_cut(
    runner: CommandRunner, context: RecordingContext
) -> None:
    long = """printf '{"type": "log", "message": "'; head -c 300000 /dev/zero | tr '\\0' x
    echo '", "fields": {"a": 1}}'"""
    outcome = await runner.run(shell(f"{long}\n{ANSWER}"), context)

    assert outcome.result == 1
    assert [len(each["message"]) for each in context.logged()] == [MAX_LOG_CHARACTERS]
