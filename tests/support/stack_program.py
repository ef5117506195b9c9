"""Drives `tests.support.run_stack` as a separate process."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.waiting import wait_until

_REPOSITORY = Path(__file__).parents[2]
_STOP_SECONDS = 60


class StackProgram:
    """The embedded servers of one home, in a process that a test may stop or kill."""

    def __init__(self, home: Path, run_as: Sequence[str]) -> None:
        self.endpoints: dict[str, str] = {}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [*run_as, sys.executable, "-m", "tests.support.run_stack", str(home)],
            cwd=_REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until all servers serve; the test fails with its output if they don't."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the stack did not start:\n{self.output}"
        self.endpoints = json.loads(line)

    @property
    def output(self) -> str:
        """What it has shown."""
        self._errors.seek(0)
        return self._errors.read()

    def descendants(self) -> list[psutil.Process]:
        """Every process that runs under it now."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_end(self) -> int:
        """Wait for it to end, and return its exit code."""
        return self.process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """End it as the kernel would (SIGKILL), and wait for that."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop it if it still runs, and give back the pipes."""
        if self.process.poll() is None:
            self.process.terminate()
            self.wait_end()
        if self.process.stdout:
            self.process.stdout.close()
        self._errors.close()


@contextmanager
def running_stack(home: Path, run_as: Sequence[str] = ()) -> Iterator[StackProgram]:
    """Run the stack in `home`, wait until it serves, and stop it at the end."""
    program = StackProgram(home, run_as)
    try:
        program.wait_ready()
        yield program
    finally:
        program.close()


def wait_all_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until none of these processes runs."""
    wait_until(
        lambda: not any(_runs(process) for process in processes),
        f"all of {[process.pid for process in processes]} have ended",
    )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
