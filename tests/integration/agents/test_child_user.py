"""A worker of root's runs agents as another user, who reaches none of the worker's secrets."""

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.run import LogRelay
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.servers import ToolServers, program
from celeriac.domain.agents import McpServer, PythonAgent
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.files import Folder, remove_tree
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.users import ChildUser
from tests.support.confined import AGENT_USER, agent_user, confined
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner

pytestmark = pytest.mark.anyio


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of our own: pytest closes its own to other users whenever it is started."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def user() -> ChildUser:
    return agent_user()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a secret, closed to others, as `celeriac up` makes it."""
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True, mode=0o700)
    (home / "secrets" / "admin_api_key").write_text("s3cret")
    (home / "secrets" / "admin_api_key").chmod(0o600)
    home.chmod(0o700)
    return home


@pytest.fixture
def context(home: Path) -> RecordingContext:
    (home / "work").mkdir(mode=0o700)
    return RecordingContext(home / "work" / "execution")


@pytest.fixture
def bounds(user: ChildUser) -> Confinement:
    return confined({"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}, user=user)


async def shell(bounds: Confinement, context: RecordingContext, script: str) -> Any:
    """Run a script as an agent; return the lines that it wrote into the file `out`."""
    runner = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    text = f'read start; {{ {script}\n}} > out 2>&1; echo \'{{"type":"result","value":1}}\''
    await runner.run(command_job("shell", text), context)
    return (context.workdir / "out").read_text().splitlines()


async def test_a_program_is_somebody_else_and_owns_its_directory_alone(
    bounds: Confinement, context: RecordingContext, home: Path
) -> None:
    lines = await shell(
        bounds,
        context,
        "id -un; id -G | wc -w; echo $HOME $USER $LOGNAME; pwd; echo > a",
    )

    work = str(context.workdir)
    assert lines == [AGENT_USER, "1", f"{work} {AGENT_USER} {AGENT_USER}", work]
    made = context.workdir.stat()
    assert stat.S_IMODE(made.st_mode) == 0o700
    assert (home / "work").stat().st_uid == os.geteuid()
    folder = Folder(home / "work", "execution")
    assert [each.path for each in folder.scan(most=9).entries] == ["a", "out"]
    assert b"".join(folder.open("a").chunks()) == b"\n", "its files can be downloaded"
    assert remove_tree(context.workdir), "and removed"


async def test_secrets_and_the_worker_are_out_of_reach(
    bounds: Confinement, context: RecordingContext, home: Path
) -> None:
    worker = os.getpid()
    lines = await shell(
        bounds,
        context,
        f"""cat {home}/secrets/admin_api_key; ls {home}; ls {home}/work; cat /proc/{worker}/environ
        cat /proc/{worker}/mem; kill -0 {worker}; touch {home}/new {home}/work/new
        ln {home}/secrets/admin_api_key link; cat /etc/shadow
        for each in /proc/[0-9]*; do tr '\\0' '\\n' < $each/environ | grep PYTEST_; done
        """,
    )

    assert not [line for line in lines if "s3cret" in line or "PYTEST" in line], lines
    refused = [line for line in lines if "ermission denied" in line or "not permitted" in line]
    assert len(refused) >= 9, lines
    assert not (home / "new").exists()


async def test_its_pipes_are_its_own(bounds: Confinement, context: RecordingContext) -> None:
    runner = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    script = """read start; echo told > /dev/stderr
    echo '{"type": "result", "value": 1}' > /dev/stdout"""

    assert (await runner.run(command_job("shell", script), context)).result == 1
    assert ("told", "stderr") in [
        (data["message"], data["source"]) for _, data in context.events if "source" in data
    ]


async def test_a_plain_function_of_a_closed_directory_runs(
    bounds: Confinement,
    context: RecordingContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = tmp_path / "closed"
    modules = closed / "modules"
    modules.mkdir(parents=True)
    (modules / "contained_shop.py").write_text(
        "import getpass, os\ndef who(): return [os.getuid(), getpass.getuser(), os.getcwd()]\n"
    )
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(str(modules))
    runner = PythonRunner(modules=("contained_shop",), confinement=bounds)
    job = replace(python_job("who"), agent=PythonAgent(function="contained_shop:who"))

    assert bounds.user.ids is not None
    expected = [bounds.user.ids.user, AGENT_USER, str(context.workdir)]
    assert (await runner.run(job, context)).result == expected

    modules.chmod(0o700)
    with pytest.raises(AgentMisconfiguredError, match=f"can't read {modules}. Open it, as with"):
        await runner.run(job, context)


async def test_the_arguments_of_an_agent_grant_no_access(
    bounds: Confinement, context: RecordingContext, tmp_path: Path
) -> None:
    closed = tmp_path / "of-root"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("s3cret")
    (closed / "file").chmod(0o644)
    runner = CommandRunner(commands={"cat": ["sh", "-c"]}, confinement=bounds)
    script = 'read start; cat "$1" > out; echo \'{"type":"result","value":1}\''

    await runner.run(command_job("cat", script, "sh", str(closed / "file")), context)

    assert (context.workdir / "out").read_text() == ""


async def test_a_program_that_it_cannot_read_is_reported(
    bounds: Confinement, context: RecordingContext, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    runner = CommandRunner(commands={"own": [str(program)]}, confinement=bounds)

    with pytest.raises(AgentMisconfiguredError, match=f"{AGENT_USER}.*can't read {program}"):
        await runner.run(command_job("own"), context)


async def test_a_tool_server_is_somebody_else(
    bounds: Confinement, context: RecordingContext
) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from tests.support.mcp_tools import server"
    command = (sys.executable, "-c", f"{code}; server.run('stdio')", str(REPOSITORY))
    servers = ToolServers({"tools": program(command, [], bounds)}, guard=OutboundGuard())
    (chosen,) = servers.choose([McpServer(name="tools")])
    connection = Connection(chosen, workdir=context.workdir, relay=LogRelay(context))
    try:
        await connection.open()
        await connection.call("note", {"text": "hello"}, meta={})
    finally:
        await connection.aclose()

    assert bounds.user.ids is not None
    assert (context.workdir / "notes").stat().st_uid == bounds.user.ids.user
