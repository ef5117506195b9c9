"""`make run-…`, `stop` and `logs`, as an operator in a checkout uses them (A21)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.embedded.home import reserve_port
from celeriac.kit.processes import terminate_group
from tests.support.command_line import CommandLine
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A21")


class Make:
    """Runs targets of the Makefile with this Python's environment, on the test's servers."""

    def __init__(self, commands: CommandLine) -> None:
        self._commands = commands
        ready = commands.directory / "ready"
        ready.touch()  # the environment counts as built
        self._command = ("make", "-C", str(REPOSITORY), "--no-print-directory",
                         f"READY={ready}", f"BIN={Path(sys.executable).parent}")  # fmt: skip

    def run(self, target: str) -> str:
        """Make a target to its end; return what it wrote."""
        done = subprocess.run(
            [*self._command, target],
            env=self._commands.env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"make {target}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, target: str) -> "subprocess.Popen[str]":
        """Make a target that stays in the foreground."""
        return subprocess.Popen(
            [*self._command, target],
            env=self._commands.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def commands(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, migrated: str
) -> Iterator[CommandLine]:
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as directory:
        yield CommandLine(
            directory,
            DATABASE_URL=postgres_server.url(database),
            REDIS_URL=valkey_server.url(),
            CELERIAC_SECRET_KEY="a key of tests alone: 0123456789abcdef",
            CELERIAC_API_PORT=str(reserve_port()),
        )
    postgres_server.drop_database(database)


@pytest.fixture
def make(commands: CommandLine) -> Make:
    return Make(commands)


def test_worker_and_beat_run_in_the_background_until_stop(
    make: Make, commands: CommandLine
) -> None:
    try:
        assert "worker started (pid " in make.run("run-worker-bg")
        assert "beat started (pid " in make.run("run-beat-bg")
        log = commands.home / "logs" / "celery-worker.log"
        ready = "celery.worker_ready"
        wait_until(lambda: log.exists() and ready in log.read_text(), "it is ready", within=60)
        wait_until(lambda: _workers(commands) == ["ok"], "the worker is alive")
    finally:
        told = make.run("stop")
    assert "worker stopped" in told
    assert "beat stopped" in told
    assert _workers(commands) == ["warning"], "none is alive any more"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("run-worker", "celery.worker_ready"),
        ("run-beat", "beat: Starting"),
        ("run-api", "Uvicorn running on"),
    ],
)
def test_programs_run_in_the_foreground(
    make: Make, commands: CommandLine, target: str, words: str
) -> None:
    _until(make.start(target), words)


def test_logs_are_followed(make: Make, commands: CommandLine) -> None:
    _until(make.start("run-api"), "Uvicorn running on")
    _until(make.start("logs"), "Uvicorn running on")


def _until(process: "subprocess.Popen[str]", words: str) -> None:
    """Read what a program writes until `words`, then end it and all that it has started."""
    assert process.stdout is not None
    seen: list[str] = []
    try:
        for line in process.stdout:
            seen.append(line)
            if words in line:
                return
        pytest.fail(f"it ended without {words!r}: {''.join(seen)}")
    finally:
        terminate_group(process.pid, 5)
        process.wait()
        process.stdout.close()


def _workers(commands: CommandLine) -> list[str]:
    """The levels of doctor's findings on workers."""
    findings = commands.run("doctor", "--json").value["findings"]
    return [each["level"] for each in findings if each["subject"] == "workers"]
