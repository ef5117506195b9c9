"""`celeriac up` in a directory where anything may lie, and what its agents reach from there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import wire
from celeriac.client import Client
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


@pytest.fixture(scope="module")
def client(up: RunningUp) -> Iterator[Client]:
    with up.client() as made:
        yield made


def run(client: Client, name: str, spec: dict[str, Any], **variables: Any) -> wire.Execution:
    client.agents.create(name, spec)
    client.tasks.create(name, name)
    done = client.executions.run(name, variables)
    assert done.status == "completed", done
    return done


def test_a_module_of_the_current_directory_is_found_and_shadows_nothing(
    client: Client,
) -> None:
    spec = {"runner": "python", "function": "corner_shop:name"}
    assert run(client, "name", spec).result == "corner_shop"


def test_a_plain_function_reaches_no_secret(client: Client, commands: CommandLine) -> None:
    paths = [commands.home / "secrets" / "admin_api_key", commands.home / "logs" / "worker.out"]
    spec = {"runner": "python", "function": "corner_shop:look"}
    found = run(client, "look", spec, paths=list(map(str, paths))).result

    assert found["seen"] == [], "no environment of a program of ours can be read"
    if os.geteuid() != 0:
        pytest.skip("as a normal user agents own what the worker owns")
    assert found["user"] != 0
    assert found["name"] == "celeriac-agent"
    assert list(found["found"].values()) == ["Permission denied"] * 2


def test_a_program_leaves_files_that_can_be_downloaded_and_removed(
    client: Client, commands: CommandLine
) -> None:
    script = (
        "read start; echo $SHOP_URL > kept; umask 077; mkdir closed; echo 1 > closed/inner;"
        'echo \'{"type":"result","value":1}\''
    )
    spec = {"runner": "command", "command": "sh", "arguments": [script, "sh"]}
    done = run(client, "files", {**spec, "environment": ["SHOP_URL"]})
    assert done.result == 1
    execution = str(done.id)

    listed = commands.ask("executions", "files", execution)
    assert [each["path"] for each in _items(listed)] == ["closed/inner", "kept"]
    got = Path(commands.directory / "got")
    commands.ask("executions", "download", execution, "kept", "--to", str(got))


def _items(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else answer["items"]
