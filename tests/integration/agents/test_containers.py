"""Containers of an administrator's command: what they confine, what works, and how they end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import ResultMessage
from celeriac.cli.doctor.checks import check_confinement
from celeriac.domain.confinement import AgentConfinement, Driver
from celeriac.domain.doctor import Level
from celeriac.domain.errors import ConfigurationError, WorkerMisconfiguredError
from celeriac.kit.containers import ContainerSandbox
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.users import ChildUser
from celeriac.wiring.confinement import StricterSandbox, checked_sandbox
from tests.integration.agents.test_confinement import (
    environment_of_a_caller,
    home,
    messages_of,
    workdir,
)
from tests.support import engines
from tests.support.outside import PROGRAM, machine
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner
from tests.support.sandboxes import FILE_MB, confined_user, sandbox_for

__all__ = ["home", "workdir"]

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F25")]


OF_IMAGES = {
    "devices: any but those of programs": "GOT ['mqueue']",  # the container's own
    "reading: the directory /run": "GOT ['.containerenv']",  # empty: how podman marks containers
    "reading: the directory /sys": "GOT [",  # engines show it, read-only
    "writing: anywhere that lets us": "GOT ['/dev/mqueue']",
    "rights: files that run as their owner": "GOT [",  # not nosuid, but programs gain no rights
}
"""What attempts may get besides what a sandbox of bubblewrap has, and why it is no way out."""


@dataclass
class Kind:
    """An engine: the command of its containers, the command that removes one, and its state."""

    command: tuple[str, ...]
    stop: tuple[str, ...]
    state: Path | None

    def names(self) -> set[str]:
        """Return the names of the containers that exist."""
        if self.state is not None:
            return {each.name for each in self.state.glob("celeriac-*")}
        listed = subprocess.run(
            [*engines.podman(), "ps", "--all", "--format={{.Names}}"],
            capture_output=True, check=True, text=True,
        )  # fmt: skip
        return {each for each in listed.stdout.split() if each.startswith("celeriac-")}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    return state


@pytest.fixture(params=["small", "podman"])
def engine(request: pytest.FixtureRequest, state: Path) -> Kind:
    if request.param == "podman":
        return Kind(engines.podman_command(), engines.podman_stop(), None)
    return Kind(engines.small_command(state), engines.small_stop(state), state)


@pytest.fixture
def sandbox(home: Path, engine: Kind) -> ContainerSandbox:
    return engines.container_for(home, engine.command, engine.stop)


async def eventually(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.02)


async def test_no_attempt_to_leave_the_container_succeeds(
    engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempts that bubblewrap withstands."""
    with machine(monkeypatch) as machines:
        container = engines.container_for(machines.home, engine.command, engine.stop)
        outside = replace(machines, sandbox=container)
        runner = CommandRunner(
            commands={"escape": [sys.executable, "-P", str(PROGRAM)]},
            confinement=outside.confinement({"PATH": os.environ["PATH"]}),
        )
        context = RecordingContext(outside.workdir)
        job = command_job("escape", **outside.targets(outside.workdir, memory_mb=256))

        done = await runner.run(outside.job(job), context)

        results = {
            name: "refused: of images" if text.startswith(OF_IMAGES.get(name, "refused")) else text
            for name, text in done.result.items()
        }
        outside.check(results, context)


async def test_a_program_works_in_its_directory_and_reaches_its_models(
    home: Path, workdir: Path, user: ChildUser, sandbox: ContainerSandbox, engine: Kind
) -> None:
    bounds = Confinement(
        {"PATH": os.environ["PATH"], "TMPDIR": "/gone", "TOKEN": "of-the-worker"},
        user=user,
        sandbox=sandbox,
    )
    environment = await environment_of_a_caller(bounds, workdir)
    assert (environment["HOME"], environment["TMPDIR"]) == (str(workdir), "/tmp")
    assert "TOKEN" not in environment
    assert not set(environment) & {"container", "HOSTNAME", "TERM", "CELERIAC_CHILD_LISTENERS"}
    assert engine.names() == set()
    assert list((home / "containers").iterdir()) == []


async def test_a_plain_function_runs_in_a_container(
    home: Path, workdir: Path, user: ChildUser, sandbox: ContainerSandbox
) -> None:
    secret = home / "secrets" / "postgres"
    runner = PythonRunner(
        modules=["tests.support"],
        confinement=Confinement({"PATH": os.environ["PATH"]}, user=user, sandbox=sandbox),
    )

    done = await runner.run(python_job("look_at", path=str(secret)), RecordingContext(workdir))

    assert done.result == {"exists": False, "workdir": str(workdir), "wrote": True}
    assert (workdir / "seen").read_text() == "not there"


def command_in(
    sandbox: ContainerSandbox, workdir: Path, script: str, **changed: Any
) -> ChildCommand:
    return ChildCommand(
        arguments=("sh", "-c", script),
        environment={"PATH": os.defpath},
        workdir=workdir,
        user=confined_user(),
        sandbox=sandbox,
        **changed,
    )


def alive(mark: str) -> list[str]:
    """Return the command lines on this machine that have `mark`."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                line = each.joinpath("cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in line:
                found.append(each.name)
    return found


async def test_a_program_that_is_stopped_may_clean_up_and_leaves_nothing(
    home: Path, workdir: Path, sandbox: ContainerSandbox, engine: Kind
) -> None:
    """The engine is not needed for it: SIGTERM goes to the program over our own socket."""
    mark = f"98{os.getpid()}1"
    script = f"""trap 'echo cleaned >cleaned; exit 0' TERM
    setsid sh -c 'trap "" TERM; exec sleep {mark}' &
    echo '{{"type": "progress", "done": 1}}'
    while :; do sleep 0.05; done"""
    async with ChildProcess.spawn(command_in(sandbox, workdir, script)) as child:
        await child.next_message()
        assert len(engine.names()) == 1
        await eventually(lambda: alive(mark))

    assert (workdir / "cleaned").read_text() == "cleaned\n"
    assert alive(mark) == []
    assert engine.names() == set()
    assert list((home / "containers").iterdir()) == []


async def test_a_program_that_does_not_stop_is_removed(
    home: Path, workdir: Path, sandbox: ContainerSandbox, engine: Kind
) -> None:
    """Nothing is left when the block ends, and the engine is asked to remove the container."""
    mark = f"98{os.getpid()}2"
    script = f"""trap "" TERM; echo '{{"type": "progress", "done": 1}}'; exec sleep {mark}"""
    command = command_in(sandbox, workdir, script, stop_grace_seconds=0.3)
    async with ChildProcess.spawn(command) as child:
        await child.next_message()
        [name] = engine.names()

    await eventually(lambda: not alive(mark))
    assert engine.names() == set()
    assert list((home / "containers").iterdir()) == []
    if engine.state is not None:
        assert (engine.state / "removed").read_text().split() == [name]


async def test_what_a_program_leaves_behind_ends_with_it(
    workdir: Path, sandbox: ContainerSandbox, engine: Kind
) -> None:
    mark = f"98{os.getpid()}3"
    script = f"""setsid sleep {mark} & echo '{{"type": "result", "value": 1}}'"""
    async with ChildProcess.spawn(command_in(sandbox, workdir, script)) as child:
        assert ResultMessage(value=1) in await messages_of(child)
        assert await child.wait(20)
        assert child.returncode == 0
        assert alive(mark) == []

    assert engine.names() == set()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
async def test_the_exit_code_is_the_programs(
    workdir: Path, sandbox: ContainerSandbox, script: str, code: int
) -> None:
    async with ChildProcess.spawn(command_in(sandbox, workdir, script)) as child:
        assert await child.wait(20)

    assert child.returncode == code


async def test_a_program_has_its_limits_inside(workdir: Path, sandbox: ContainerSandbox) -> None:
    script = """python=$1; "$python" -c 'bytearray(300 << 20)' 2>&1 | tail -1 >said
    ulimit -f >>said"""
    command = command_in(sandbox, workdir, script, limits=ResourceLimits(memory=128 * 1024**2))
    command = replace(command, arguments=(*command.arguments, "sh", sys.executable))
    async with ChildProcess.spawn(command) as child:
        assert await child.wait(20)

    blocks = FILE_MB * 2048  # of 512 bytes
    assert (workdir / "said").read_text() == f"MemoryError\n{blocks}\n"


WORKER = """
import asyncio, os, sys
from pathlib import Path
from celeriac.agents.child.process import ChildCommand, ChildProcess
from tests.integration.agents.test_containers import alive
from tests.support.engines import container_for
from tests.support.sandboxes import confined_user

async def main(home, mark, command, stop):
    sandbox = container_for(Path(home), tuple(command), tuple(stop))
    script = f'''trap "" TERM; echo '{{"type": "progress", "done": 1}}'; exec sleep {mark}'''
    child = ChildCommand(
        arguments=("sh", "-c", script), environment={"PATH": os.defpath},
        workdir=Path(home) / "work" / "mine", user=confined_user(), sandbox=sandbox,
    )
    async with ChildProcess.spawn(child) as process:
        await process.next_message()
        while not alive(mark):
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        await asyncio.sleep(1000)

import json
asyncio.run(main(*json.loads(sys.argv[1])))
"""


async def test_a_container_ends_with_its_worker(
    home: Path, workdir: Path, engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed runs nothing: the connection of its first process ends."""
    mark = f"98{os.getpid()}4"
    given = json.dumps([str(home), mark, engine.command, engine.stop])
    worker = subprocess.Popen(  # noqa: ASYNC220 - it is killed, not awaited
        [sys.executable, "-c", WORKER, given], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert worker.stdout is not None
    with worker:
        assert worker.stdout.readline() == "ready\n"
        worker.send_signal(signal.SIGKILL)

    await eventually(lambda: not alive(mark))
    [left] = (home / "containers").iterdir()
    monkeypatch.setattr("celeriac.kit.containers._YOUNG_SECONDS", 0.0)
    engines.container_for(home, engine.command, engine.stop)  # the next worker
    assert not left.exists()
    assert engine.names() == set()


@pytest.mark.parametrize(
    ("added", "without", "reason"),
    [
        (("--no-userns",), "--network", "as without --network=none"),
        ((), "--read-only", r"it can write to / .*as without --read-only"),
        ((), "--user=", r"must use {user} and {group}"),
        (("--host-pids",), "", "sees the machine's processes"),
        (("--volume={read}:{read}",), "--volume={read}", r"it can write to .*or :ro for \{read\}"),
        (("--volume=/:/machine:ro",), "", "it sees .*home of the machine, at /machine"),
        (("--volume=/:/its root:ro",), "", "it sees .*home of the machine, at /its root"),
        (("--tmpfs=/tmp:size=99000000",), "", "its /tmp is larger than"),
    ],
)
def test_a_command_that_does_not_confine_is_refused_with_the_cure(
    home: Path, state: Path, added: tuple[str, ...], without: str, reason: str
) -> None:
    command = engines.small_command(state, *added, without=without)

    with pytest.raises(ConfigurationError, match=reason) as caught:
        engines.container_for(home, command, engines.small_stop(state))

    assert "CELERIAC_CONFINEMENT_CONTAINER_COMMAND" in caught.value.message


def test_a_network_of_the_engine_is_left(home: Path, state: Path) -> None:
    """The first process leaves it where the kernel allows that."""
    command = engines.small_command(state, without="--network")

    engines.container_for(home, command)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/engine", "{read}", "{write}", "{user}{group}"), "No such file"),
        (("sh", "-c", "echo no image >&2; exit 125", "{read}{user}{group}", "{write}"), "no image"),
        (("sleep", "10{read}", "{write}{user}{group}"), "the command ended with 1"),
    ],
)
def test_a_command_that_starts_nothing_is_an_error_with_its_words(
    home: Path, command: tuple[str, ...], reason: str
) -> None:
    finding = check_confinement(engines.settings_for(home, command))

    assert finding.level is Level.FAILED
    assert reason in finding.message
    assert "makes no container" in finding.message
    assert list((home / "containers").iterdir()) == []


def test_a_path_to_read_may_lie_in_a_directory_that_is_closed_to_others(
    home: Path, state: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "library").mkdir()
    command = engines.small_command(state)
    settings = engines.settings_for(home, command)
    reads = [*map(str, settings.confinement.reads), str(closed / "library")]

    sandbox = engines.container_for(home, command, reads=reads)

    assert closed / "library" in sandbox.reads


def test_doctor_names_the_driver(home: Path, state: Path) -> None:
    finding = check_confinement(engines.settings_for(home, engines.small_command(state)))

    assert finding.level is Level.OK, finding.message
    assert finding.message == "agents run in containers; network: none"


async def test_agents_may_demand_a_stricter_driver_never_a_less_strict_one(
    home: Path, state: Path, user: ChildUser
) -> None:
    """none, bubblewrap, container: the later ones meet a demand for the earlier ones."""
    settings = engines.settings_for(home, engines.small_command(state), engines.small_stop(state))
    container = checked_sandbox(settings, user, home / "work")
    stricter = StricterSandbox(settings, user, home / "work")
    own = Confinement({}, user=user, sandbox=container, stricter=stricter)
    less = replace(own, sandbox=sandbox_for(home))
    poor = replace(less, stricter=None)
    demands = {each: AgentConfinement(driver=each) for each in Driver}

    for asked in (AgentConfinement(), *demands.values()):
        found = (await own.for_agent(asked)).sandbox
        assert found is container
    for confinement in (less, replace(own, sandbox=None)):
        found = (await confinement.for_agent(demands[Driver.CONTAINER])).sandbox
        assert found is not None
        assert found.driver == "container"
    found = (await less.for_agent(demands[Driver.BUBBLEWRAP])).sandbox
    assert found is not None
    assert found.driver == "bubblewrap"
    with pytest.raises(WorkerMisconfiguredError, match="has no sandboxes"):
        await poor.for_agent(demands[Driver.CONTAINER])
