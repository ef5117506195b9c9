"""`celeriac up` in a directory where anything may lie, and what its agents reach from there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.kit.json_types import dumps
from tests.support.command_line import CommandLine, RunningUp, running_up
from tests.support.places import temporary_directory

_SHOP = """
import getpass, os
from pathlib import Path

import celeriac


@celeriac.agent("look")
def look(paths: list[str]) -> dict:
    found = {}
    for path in [*paths, *(f"/proc/{pid}/environ" for pid in os.listdir("/proc") if pid.isdigit())]:
        try:
            found[path] = Path(path).read_text(errors="replace")
        except OSError as error:
            found[path] = error.strerror
    seen = [path for path, text in found.items() if "CELERIAC_SECRET_KEY" in text]
    return {"user": os.getuid(), "name": getpass.getuser(), "seen": seen,
            "found": {path: found[path] for path in paths}}


@celeriac.agent("name")
async def name() -> str:
    return __name__
"""
_SHADOWS = ("secrets", "typing_extensions", "celery", "redis", "uvicorn", "warnings", "queue")


@pytest.fixture(scope="module")
def commands() -> Iterator[CommandLine]:
    """A command line in a directory with a module of agents, and files that would shadow others."""
    with temporary_directory() as directory:
        directory.chmod(0o755)
        for each in _SHADOWS:
            (directory / f"{each}.py").write_text(f"raise SystemExit('{each} is shadowed')\n")
        (directory / "corner_shop.py").write_text(_SHOP)
        shell = {"sh": ["/bin/sh", "-c"]}
        yield CommandLine(
            directory,
            "-P",
            CELERIAC_AGENT_MODULES="corner_shop",
            CELERIAC_COMMANDS=dumps(shell),
            SHOP_URL="https://shop",
            CELERIAC_AGENT_ENVIRONMENT="SHOP_*",
        )


@pytest.fixture(scope="module")
def up(commands: CommandLine) -> Iterator[RunningUp]:
    with running_up(commands) as running:
        yield running


def run(commands: CommandLine, name: str, *made: str, **variables: Any) -> Any:
    commands.ask("agents", "create", name, *made)
    commands.ask("tasks", "create", name, "--agent", name)
    given = [f"--var={key}:={dumps(value)}" for key, value in variables.items()]
    done = commands.ask("run", name, *given)
    assert done["status"] == "completed", done
    return done["result"]


def test_a_module_of_the_current_directory_is_found_and_shadows_nothing(
    up: RunningUp, commands: CommandLine
) -> None:
    assert run(commands, "name", "--function", "corner_shop:name") == "corner_shop"


def test_a_plain_function_reaches_no_secret(up: RunningUp, commands: CommandLine) -> None:
    paths = [commands.home / "secrets" / "admin_api_key", commands.home / "logs" / "worker.out"]
    found = run(commands, "look", "--function", "corner_shop:look", paths=list(map(str, paths)))

    assert found["seen"] == [], "no environment of a program of ours can be read"
    if os.geteuid() != 0:
        pytest.skip("as a normal user agents own what the worker owns")
    assert found["user"] != 0
    assert found["name"] == "celeriac-agent"
    assert list(found["found"].values()) == ["Permission denied"] * 2


def test_a_program_leaves_files_that_can_be_downloaded_and_removed(
    up: RunningUp, commands: CommandLine
) -> None:
    script = (
        "read start; echo $SHOP_URL > kept; umask 077; mkdir closed; echo 1 > closed/inner;"
        'echo \'{"type":"result","value":1}\''
    )
    spec = {"runner": "command", "command": "sh", "arguments": [script, "sh"]}
    file = commands.directory / "agent.json"
    file.write_text(dumps({**spec, "environment": ["SHOP_URL"]}))
    assert run(commands, "files", "--spec", str(file)) == 1
    (execution,) = [
        each for each in _items(commands.ask("executions", "list")) if each["task_name"] == "files"
    ]

    listed = commands.ask("executions", "files", execution["id"])
    assert [each["path"] for each in _items(listed)] == ["closed/inner", "kept"]
    got = Path(commands.directory / "got")
    commands.ask("executions", "download", execution["id"], "kept", "--to", str(got))


def _items(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else answer["items"]
