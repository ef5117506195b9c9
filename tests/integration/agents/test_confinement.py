"""Confined programs: what they can't reach, what they can, and how they end."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import (
    ChildCommand,
    ChildProcess,
    received_listeners,
)
from celeriac.agents.child.protocol import ResultMessage
from celeriac.agents.gateway.loopback import ModelAccess
from celeriac.agents.models import Provider
from celeriac.cli.doctor.checks import check_confinement
from celeriac.domain.doctor import Cause, Level
from celeriac.domain.errors import ConfigurationError
from celeriac.kit.processes import identify, still_running
from celeriac.kit.users import OURSELVES, ChildUser
from celeriac.settings import Settings
from celeriac.wiring.confinement import checked_sandbox
from tests.integration.agents.test_child_models import PROGRAM as CALLING
from tests.integration.agents.test_child_models import whole
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner
from tests.support.sandboxes import (
    confined_user,
    sandbox_for,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "postgres").write_text("the-password")
    (home / "work" / "other").mkdir(parents=True)
    (home / "work" / "other" / "notes").write_text("of another session")
    # what a user could read is hidden all the same
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


@pytest.fixture
def workdir(home: Path) -> Path:
    return home / "work" / "mine"


def runner_of(confinement: Confinement) -> CommandRunner:
    return CommandRunner(
        commands={"shell": ["sh", "-c"]},
        confinement=confinement,
    )


async def environment_of_a_caller(bounds: Confinement, workdir: Path) -> dict[str, str]:
    """Run a program that calls a model over the gateway of its attempt; return its environment."""
    with ModelServer({"whole": whole}).running() as models:
        provider = Provider(name="openai", base_url=models.base_url, api_key=KEY)
        runner = CommandRunner(
            commands={"call": [sys.executable, "-c", CALLING]},
            confinement=bounds,
            models=ModelAccess([provider]),
        )
        outcome = await runner.run(
            command_job("call", "whole", "openai"), context := RecordingContext(workdir)
        )

    answer = outcome.result["answer"]
    assert answer["choices"][0]["message"]["content"] == "Done.", answer
    assert [(each.provider, each.output_tokens) for each in context.calls] == [("openai", 3)]
    environment: dict[str, str] = outcome.result["environment"]
    return environment


async def test_a_confined_program_works_in_its_directory_and_reaches_its_models(
    home: Path, workdir: Path, user: ChildUser
) -> None:
    """It writes files, sees the system, and calls models over the gateway of its attempt."""
    bounds = Confinement(
        {"PATH": os.environ["PATH"], "TMPDIR": "/gone"}, user=user, sandbox=sandbox_for(home)
    )
    environment = await environment_of_a_caller(bounds, workdir)
    assert (environment["HOME"], environment["TMPDIR"]) == (str(workdir), "/tmp")
    assert set(environment) <= {
        "PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "SHELL", "PWD", "CELERIAC_CHILD",
        "CELERIAC_MODEL_URL", "CELERIAC_MODEL_KEY", "LC_CTYPE", "NODE_USE_ENV_PROXY",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    }  # fmt: skip


async def test_a_plain_function_is_confined_like_a_program(
    home: Path, workdir: Path, user: ChildUser
) -> None:
    secret = home / "secrets" / "postgres"
    runner = PythonRunner(
        modules=["tests.support"],
        confinement=Confinement({"PATH": os.environ["PATH"]}, user=user, sandbox=sandbox_for(home)),
    )

    done = await runner.run(python_job("look_at", path=str(secret)), RecordingContext(workdir))

    assert done.result == {"exists": False, "workdir": str(workdir), "wrote": True}
    assert (workdir / "seen").read_text() == "not there"


def in_sandbox(home: Path, workdir: Path, script: str, user: ChildUser) -> ChildCommand:
    return ChildCommand(
        arguments=("sh", "-c", script),
        environment={"PATH": os.defpath},
        workdir=workdir,
        user=user,
        sandbox=sandbox_for(home),
    )


async def messages_of(child: ChildProcess) -> list[object]:
    messages: list[object] = []
    while (message := await child.next_message()) is not None:
        messages.append(message)
    return messages


def processes_of(child: ChildProcess) -> list[int]:
    """Return the processes of the sandbox, whose first is a child of bubblewrap."""
    found = {
        int(each.name): each.joinpath("stat").read_text().rpartition(")")[2].split()
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and each.joinpath("stat").exists()
    }
    members = {child.pid}
    while more := {
        pid for pid, fields in found.items() if int(fields[1]) in members and pid not in members
    }:
        members |= more
    return sorted(members)


async def test_a_program_that_is_stopped_may_clean_up_and_leaves_nothing(
    home: Path, workdir: Path, user: ChildUser
) -> None:
    """SIGTERM reaches the program, not bubblewrap; daemons in sessions of their own end too."""
    script = """trap 'echo cleaned >cleaned; exit 0' TERM
    setsid sh -c 'trap "" TERM; exec sleep 1000' &
    echo '{"type": "progress", "done": 1}'
    while :; do sleep 0.05; done"""
    async with ChildProcess.spawn(in_sandbox(home, workdir, script, user)) as child:
        await child.next_message()
        inside = [identify(pid) for pid in processes_of(child)]
        assert len(inside) >= 4, "bubblewrap, its first process, the shell, the daemon"

    assert (workdir / "cleaned").read_text() == "cleaned\n"
    assert [each for each in inside if each is not None and still_running(each)] == []


async def test_what_a_program_leaves_behind_ends_with_it(
    home: Path, workdir: Path, user: ChildUser
) -> None:
    script = """setsid sleep 1000 & sleep 1001 &
    echo '{"type": "result", "value": 1}'"""
    async with ChildProcess.spawn(in_sandbox(home, workdir, script, user)) as child:
        assert ResultMessage(value=1) in await messages_of(child)
        assert await child.wait(10)
        assert child.returncode == 0

    assert processes_of(child) == [child.pid]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
async def test_the_exit_code_is_the_programs(
    home: Path, workdir: Path, script: str, code: int
) -> None:
    command = in_sandbox(home, workdir, script, confined_user())
    async with ChildProcess.spawn(command) as child:
        assert await child.wait(10)

    assert child.returncode == code


async def test_a_home_inside_a_directory_that_agents_read_is_hidden(
    tmp_path: Path, home: Path, workdir: Path
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "text").write_text("for agents\n")
    (tmp_path / "alias").symlink_to(tmp_path)
    script = """cd "$1"
    seen=$(cat library/text alias/home/secrets/postgres home/secrets/postgres; ls home home/work)
    printf '{"type": "result", "value": "%s"}' "$(echo "$seen" | xargs)" """
    runner = runner_of(
        Confinement(
            {"PATH": os.environ["PATH"]},
            user=confined_user(),
            sandbox=sandbox_for(home, reads=[str(tmp_path), str(tmp_path / "alias")]),
        )
    )
    done = await runner.run(
        command_job("shell", script, "sh", str(tmp_path)), RecordingContext(workdir)
    )

    assert done.result == "for agents home: work home/work: mine"


def load(home: Path, **confinement: object) -> Settings:
    return Settings.load(home=home, confinement={"driver": "bubblewrap", **confinement})


@pytest.mark.parametrize(
    ("reads", "reason"),
    [
        ("/etc", "a sandbox has one of its own"),
        ("/tmp", "a sandbox has one of its own"),
        ("{home}/secrets", "lies in CELERIAC_HOME"),
        ("{home}", "lies in CELERIAC_HOME"),
        ("/no/such/directory", "does not exist"),
    ],
)
def test_paths_that_agents_must_not_see_are_refused(home: Path, reads: str, reason: str) -> None:
    settings = load(home, reads=[reads.format(home=home)])

    with pytest.raises(ConfigurationError, match=reason):
        checked_sandbox(settings, confined_user(), home / "work")


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (None, "apt install bubblewrap"),
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "uid map.*namespaces"),
        ("echo 'bwrap: Unknown option --disable-userns' >&2; exit 1", "0.8.0 or later"),
        ("echo 'bwrap: Can'\"'\"'t mount proc on /newroot/proc' >&2; exit 1", "masked"),
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "sees the machine's processes"),
    ],
)
def test_a_worker_that_cant_confine_says_why_and_how_to_correct_that(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, fake: str | None, reason: str
) -> None:
    """Also a bubblewrap that confines nothing is noticed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if fake is not None:
        (programs / "bwrap").write_text(f"#!/bin/sh\n{fake}\n")
        (programs / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))

    finding = check_confinement(load(home))
    assert (finding.level, finding.cause) == (Level.FAILED, Cause.MISCONFIGURED)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        checked_sandbox(load(home), confined_user(), home / "work")
    assert finding.message == caught.value.message
    assert "CELERIAC_CONFINEMENT_DRIVER=none" in caught.value.message


def test_doctor_tries_the_sandbox(home: Path) -> None:
    sandbox_for(home)  # skips where there is no bubblewrap

    finding = check_confinement(load(home))

    assert finding.level is Level.OK
    assert finding.message == "agents run in sandboxes of bubblewrap; network: none"
    named = check_confinement(load(home, hosts=["*.github.com", "pypi.org:443"])).message
    assert named.endswith("; network: none; agents may name *.github.com, pypi.org:443")
    limited = check_confinement(load(home, memory_mb=2048, disk_mb=512, files=5000)).message
    assert limited == (
        "agents run in sandboxes of bubblewrap; at most 2,048 MB of memory, 512 MB of disk, "
        "5,000 files for each sandbox, measured; network: none"
    )


def test_doctor_says_which_settings_confine_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor's environment need not be that of the workers, which it lists."""
    off = check_confinement(Settings.load(home=home)).message
    assert off == "off by the settings here: agents see what their user may read"
    monkeypatch.setenv("CELERIAC_CONFINEMENT_FILES", "500")
    limited = check_confinement(Settings.load(home=home)).message
    assert limited == f"{off}; limits of a sandbox hold only for agents that demand one"


@pytest.mark.skipif(os.geteuid() != 0, reason="a normal user owns its sandboxes")
def test_limits_that_cannot_be_measured_keep_a_worker_from_starting(home: Path) -> None:
    """Root without CAP_SYS_PTRACE, as in containers, can't see into sandboxes of another user."""
    sandbox_for(home)  # skips where there is no bubblewrap
    program = f"""
from pathlib import Path
from celeriac.domain.errors import ConfigurationError
from tests.integration.agents.test_whole_limits import sandbox_for
try:
    sandbox_for(Path({str(home)!r}), files=500)
except ConfigurationError as error:
    print(error.message)
"""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c", program],
        capture_output=True, check=False, text=True, timeout=120, cwd=REPOSITORY,
    )  # fmt: skip
    assert "can't be measured" in done.stdout, done.stdout + done.stderr
    assert "CAP_SYS_PTRACE" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run agents as root")
def test_agents_that_run_as_root_are_not_confined(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="would run as root"):
        checked_sandbox(load(home), OURSELVES, home / "work")


@pytest.mark.parametrize("kind", ["pipe", "connection", "nothing"])
def test_only_a_listening_socket_is_taken(kind: str) -> None:
    ours, theirs = socket.socketpair()
    pipe = os.pipe()
    before = len([*Path("/proc/self/fd").iterdir()])
    with ours, theirs:
        if kind != "nothing":
            sent = pipe[0] if kind == "pipe" else theirs.fileno()
            socket.send_fds(theirs, [b"."], [sent])
        theirs.shutdown(socket.SHUT_WR)

        assert received_listeners(ours, 1, 10.0) == []

        assert len([*Path("/proc/self/fd").iterdir()]) == before
    for each in pipe:
        os.close(each)
