"""Programs of Celeriac as a test runs them: real processes to be stopped, killed and frozen."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from celeriac.kit.json_types import JsonObject, loads
from celeriac.kit.processes import ProcessIdentity, identify, launch, send_signal, terminate_group
from tests.support.forking import ForkedProgram
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
_SHOWN_CHARACTERS = 8_000


class Program:
    """A process that leads a session of its own and dies with the test run, killed or not."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        forked: bool = False,
    ) -> None:
        """Start Python with `arguments`; `forked` for `-m module …` without its imports."""
        self.name = name
        self.log = log
        self._arguments = arguments
        self._env = env
        self._forked = forked
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes] | ForkedProgram:
        process = self._forked_program() if self._forked else self._executed_program()
        identity = identify(process.pid)
        assert identity is not None, f"{self.name} ended at once: {self.output()}"
        self._identity: ProcessIdentity = identity
        return process

    def _forked_program(self) -> ForkedProgram:
        option, *arguments = self._arguments
        assert option == "-m", "only modules are run by a fork"
        return ForkedProgram(arguments, self._env, self.log.parent, self.log)

    def _executed_program(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return launch(
                (sys.executable, *self._arguments),
                env=self._env,
                cwd=self.log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its pid, also after its end."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: the signal); None while it runs."""
        return self._process.poll()

    def restart(self) -> None:
        """Start it again after its end, with the same arguments."""
        assert self.exit_code is not None, f"{self.name} still runs"
        self._process = self._start()

    def kill(self) -> None:
        """End this process alone, as a crash would (SIGKILL); its children learn it their way."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stop it where it stands (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), without waiting for that."""
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        send_signal(self._identity, number)

    def wait_end(self, *, within: float = 30.0) -> int:
        """Wait until it has ended, and return its exit code."""
        wait_until(lambda: self.exit_code is not None, f"{self.name} has ended", within=within)
        assert self.exit_code is not None
        return self.exit_code

    def close(self) -> None:
        """End it with all that came from it."""
        terminate_group(self._identity, 0)
        self._process.wait()

    def output(self) -> str:
        """The end of what it has written."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-_SHOWN_CHARACTERS:]

    def logged(self, event: str) -> list[JsonObject]:
        """Its log lines of an event."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = (loads(line) for line in lines if line.startswith("{") and event in line)
        return [line for line in found if line.get("event") == event]


def scrubbed_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing of ours reaches a program: no keys, no settings."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "CELERIAC_HOME": str(home / "celeriac"),
        **more,
    }
