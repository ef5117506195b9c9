"""Children that are not Python functions: programs that use the protocol, or fail to."""

import os
import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import (
    MAX_LINE_BYTES,
    ChildMessage,
    LogMessage,
    ProgressMessage,
    ResultMessage,
)
from celeriac.agents.child.run import run_in_child
from celeriac.domain.errors import ChildCrashedError, ChildProtocolError
from celeriac.kit.processes import ResourceLimits, identify, still_running
from tests.support.run_context import RecordingContext, python_job
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def command(*arguments: str, workdir: Path) -> ChildCommand:
    return ChildCommand(
        arguments=arguments,
        environment={"PATH": os.environ["PATH"]},
        workdir=workdir,
        limits=ResourceLimits(),
    )


def shell(script: str, tmp_path: Path) -> AbstractAsyncContextManager[ChildProcess]:
    return ChildProcess.spawn(command("sh", "-c", script, workdir=tmp_path))


async def all_messages(child: ChildProcess) -> list[ChildMessage]:
    messages = []
    while (message := await child.next_message()) is not None:
        messages.append(message)
    return messages


async def test_a_program_reads_its_job_and_answers(tmp_path: Path) -> None:
    script = """read start; echo "$start" >&2; echo '{"type": "progress", "done": 1}'
    echo '{"type": "result", "value": [1]}'"""
    async with shell(script, tmp_path) as child:
        child.send({"type": "start", "job": {"prompt": "x"}})
        messages = await all_messages(child)
        assert await child.wait(10)

    logs = [each for each in messages if isinstance(each, LogMessage)]
    others = [each for each in messages if not isinstance(each, LogMessage)]
    assert others == [ProgressMessage(done=1), ResultMessage(value=[1])]
    assert logs == [LogMessage(message='{"type":"start","job":{"prompt":"x"}}', logger="stderr")]
    assert child.returncode == 0


async def test_a_line_without_its_newline_is_read(tmp_path: Path) -> None:
    async with shell("""printf '{"type": "result", "value": 1}'""", tmp_path) as child:
        assert await child.next_message() == ResultMessage(value=1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "Invalid JSON"),
        ('{"type": "surprise"}', "does not match any of the expected tags"),
        ('{"type": "progress"}', "progress.done: Field required"),
        ('{"type": "event", "kind": "completed"}', "event.kind: Input should be"),
    ],
)
async def test_a_malformed_line_is_shown_with_its_fault(
    tmp_path: Path, line: str, reason: str
) -> None:
    async with shell(f"echo '{line}'", tmp_path) as child:
        with pytest.raises(ChildProtocolError, match=reason) as raised:
            await child.next_message()

    assert line in raised.value.message


async def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    script = "import os\nwhile True: os.write(1, b'x' * 65536)"
    async with ChildProcess.spawn(command(sys.executable, "-c", script, workdir=tmp_path)) as child:
        with pytest.raises(ChildProtocolError, match=f"more than {MAX_LINE_BYTES:,} bytes"):
            await child.next_message()


async def test_a_job_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with shell("read start", tmp_path) as child:
        with pytest.raises(ChildProtocolError, match="Make its variables smaller"):
            child.send({"type": "start", "job": "x" * MAX_LINE_BYTES})


async def test_a_program_that_does_not_exist_is_a_clear_error(
    tmp_path: Path, context: RecordingContext
) -> None:
    job = python_job("echo")
    with pytest.raises(
        ChildCrashedError, match=r"could not be started.*cannot run no-such-program: No such file"
    ):
        await run_in_child(command("no-such-program", workdir=tmp_path), job, context, {})


async def test_a_program_that_closes_its_stdout_and_goes_on_is_ended(
    tmp_path: Path, context: RecordingContext
) -> None:
    job = python_job("echo")
    script = f"echo $$ > {tmp_path}/pid; exec >&- 2>&-; sleep 600"
    with pytest.raises(ChildCrashedError, match="closed its stdout without a result"):
        await run_in_child(command("sh", "-c", script, workdir=tmp_path), job, context, {})

    left = identify(int((tmp_path / "pid").read_text()))
    assert left is None or not still_running(left)


async def test_the_end_of_a_child_is_seen_though_its_daemon_holds_the_pipes(
    tmp_path: Path,
) -> None:
    async with shell("setsid sleep 600 & exit 3", tmp_path) as child:
        assert await all_messages(child) == []
        assert await child.wait(10)
        assert child.returncode == 3


async def test_the_last_lines_of_stderr_are_kept(tmp_path: Path) -> None:
    async with shell("seq 1000 >&2", tmp_path) as child:
        await all_messages(child)

    assert child.stderr_tail == tuple(str(number) for number in range(901, 1001))


WORKER = """
import asyncio, os, signal, sys
from pathlib import Path
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.kit.processes import ResourceLimits, UserIds
from celeriac.kit.users import ChildUser

async def main():
    script = "sleep 600 & echo $$ $! > pids.part; mv pids.part pids; trap '' TERM; wait"
    ids = UserIds(65534, 65534) if sys.argv[1:] else None
    command = ChildCommand(
        ("sh", "-c", script), dict(os.environ), Path.cwd(), ResourceLimits(),
        user=ChildUser("nobody", ids),
    )
    async with ChildProcess.spawn(command) as child:
        await child.next_message()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("user", [(), ("other",)], ids=["same-user", "other-user"])
def test_children_die_with_their_worker(
    tmp_path: Path, number: signal.Signals, user: tuple[str, ...]
) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root can start a process as another user")
    note = tmp_path / "pids"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *user], cwd=tmp_path, env=environment)
    wait_until(note.exists, "the worker's child has started its own")
    family = [identify(int(pid)) for pid in note.read_text().split()]

    worker.send_signal(number)
    worker.wait(timeout=60)

    assert all(family)
    wait_until(
        lambda: not [each for each in family if each and still_running(each)],
        "the child and its own child have gone",
    )
