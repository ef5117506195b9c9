"""The README's five minutes, command by command, on the stack that it starts."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY, Program, scrubbed_environment
from tests.support.waiting import wait_until

_README = (REPOSITORY / "README.md").read_text()
_ADDRESS = "http://127.0.0.1:8321"
_SECONDS = 100
_CURL = shutil.which("curl") is not None


class Tour:
    """A directory, the stack that runs in it, and what the README does there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "examples").symlink_to(REPOSITORY / "examples")
        self.environment = scrubbed_environment(
            directory, CELERIAC_HOME=str(directory / ".celeriac"), CELERIAC_AGENT_MODULES="shop"
        )
        arguments = ["-m", "celeriac", "up", "--json", "--port", "0"]
        self.up = Program("up", arguments, self.environment, directory / "up.log")

    def wait_until_up(self) -> str:
        """Wait until the stack serves, and return the API's address."""
        told = re.compile(r'^\{"api_url": ?"([^"]+)"', re.MULTILINE)

        def serves() -> bool:
            assert self.up.exit_code is None, f"`celeriac up` has ended:\n{self.up.output()}"
            return bool(told.search(self.up.log.read_text()))

        wait_until(serves, "`celeriac up` says where all is", within=60)
        found = told.search(self.up.log.read_text())
        assert found is not None
        self.environment["CELERIAC_API_URL"] = found[1]
        return found[1]

    def run(self, *command: str) -> str:
        """Run a command to its end and return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def tour() -> Iterator[Tour]:
    with temporary_directory() as directory:
        made = Tour(directory)
        try:
            yield made
        finally:
            made.up.terminate()
            try:
                made.up.wait_end()
            finally:
                made.up.close()


@pytest.mark.requirement("B3")
def test_the_five_minutes(tour: Tour) -> None:
    address = tour.wait_until_up()
    scripts = [block for block in _blocks("python") if not _save(block, tour.directory)]
    commands = [line.replace(_ADDRESS, address) for line in _commands()]
    assert len(commands) >= 8, "the commands of the tour weren't found"
    printed = tour.run("bash", "-c", "\n".join(["set -euo pipefail", *commands]))
    assert printed.count('"score": 42') == 1, f"`celeriac run score` printed no result:\n{printed}"
    assert "'score': 42" in printed, f"tour.py printed no result:\n{printed}"
    assert "progress {" in printed, f"tour.py printed no events:\n{printed}"
    for script in scripts:
        tour.run(sys.executable, "-c", script)

    def executions() -> list[dict[str, Any]]:
        found = json.loads(tour.run("celeriac", "executions", "list", "--json"))
        return found if isinstance(found, list) else found["items"]

    wait_until(
        lambda: [each["status"] for each in executions()] == ["completed"] * (4 if _CURL else 3),
        "all executions of the tour are completed",
    )


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.DOTALL | re.MULTILINE)


def _commands() -> list[str]:
    """Return what is typed, without what the test's environment has already."""
    joined = "\n".join(_blocks("console")).replace("\\\n", " ")
    typed = [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
    return [line for line in typed if _CURL or "curl" not in line]


def _save(block: str, directory: Path) -> bool:
    """Write a block that names its file into that file; return whether it does."""
    named = re.match(r"# (\w+\.py)\n", block)
    if named is None:
        return False
    (directory / named[1]).write_text(block)
    return True
