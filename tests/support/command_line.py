"""The `celeriac` command as a user runs it: a process with a home, an environment, no terminal."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeriac.client import Client
from celeriac.domain.agents import PythonAgent
from tests.support.programs import Program, scrubbed_environment
from tests.support.waiting import wait_until

_SECONDS = 100.0
_UP_SECONDS = 90.0
_READY = '{"api_url"'


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON value on standard output."""
        assert self.out, f"it ended with {self.code} and wrote nothing but: {self.err}"
        return json.loads(self.out)


class CommandLine:
    """Runs commands in one directory; the home is `celeriac` in it."""

    def __init__(self, directory: Path, *flags: str, **env: str) -> None:
        """Run in `directory`, by Python with `flags`."""
        self.directory = directory
        self._flags = flags
        self.env = scrubbed_environment(directory, **env)

    @property
    def home(self) -> Path:
        """The home of all commands."""
        return self.directory / "celeriac"

    def run(self, *arguments: str, stdin: str | None = None, **env: str) -> Result:
        """Run `celeriac ARGUMENTS` to its end."""
        done = subprocess.run(
            [sys.executable, *self._flags, "-m", "celeriac", *arguments],
            env={**self.env, **env},
            cwd=self.directory,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ask(self, *arguments: str) -> Any:
        """Run `celeriac ARGUMENTS --json` and return its answer; the test fails where it fails."""
        result = self.run(*arguments, "--json")
        assert result.code == 0, f"{arguments} ended with {result.code}:\n{result.err}"
        return result.value

    def on_terminal(self, *arguments: str, sight: str, then: Callable[[], object]) -> str:
        """Run `celeriac ARGUMENTS` on a terminal of 120 columns; return all that it drew.

        `then` is called once, when `sight` is drawn.
        """

        def call(_: int) -> None:
            then()

        return self._with_terminal(arguments, [(sight, call)])

    def talk(self, *arguments: str, lines: Sequence[tuple[str, str]]) -> str:
        """Run `celeriac ARGUMENTS` on a terminal, and type; return all that it drew.

        `lines` are pairs of what is to be drawn first and the line that is typed then.
        """

        def typing(line: str) -> Callable[[int], None]:
            def type_line(master: int) -> None:
                os.write(master, f"{line}\n".encode())

            return type_line

        return self._with_terminal(arguments, [(sight, typing(line)) for sight, line in lines])

    def _with_terminal(
        self, arguments: Sequence[str], steps: Sequence[tuple[str, Callable[[int], None]]]
    ) -> str:
        master, slave = pty.openpty()
        env = {**self.env, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
        process = subprocess.Popen(
            [sys.executable, *self._flags, "-m", "celeriac", *arguments],
            env=env,
            cwd=self.directory,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        drawn = _read_to_end(master, steps)
        assert process.wait(_SECONDS) == 0, drawn
        return drawn

    def start(self, name: str, *arguments: str, **env: str) -> Program:
        """Start `celeriac ARGUMENTS` in the background."""
        command = [*self._flags, "-m", "celeriac", *arguments]
        return Program(name, command, {**self.env, **env}, self.directory / f"{name}.txt")


class RunningUp:
    """A `celeriac up` that is ready; `facts` are what it said of itself."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.facts: dict[str, Any] = {}

    def wait_ready(self) -> None:
        """Wait until all of it works; the test fails with its output if it ends before."""

        def ready() -> bool:
            assert self.program.exit_code is None, f"up has ended:\n{self.program.output()}"
            return _READY in self.text

        wait_until(ready, "celeriac up is ready", within=_UP_SECONDS)
        line = next(line for line in self.text.splitlines() if line.startswith(_READY))
        self.facts = json.loads(line)

    @property
    def text(self) -> str:
        """All that it has written."""
        return self.program.log.read_text(errors="replace")

    def client(self) -> Client:
        """Return a client of the API with the administrator's key; close it."""
        key = Path(self.facts["key_file"]).read_text().strip()
        return Client(self.facts["api_url"], key)

    def add_function(self, name: str, module: str) -> None:
        """Make a `python` agent and a task, both `name`, for a function of `module`."""
        with self.client() as client:
            client.agents.create(name, PythonAgent(function=f"{module}:{name}"))
            client.tasks.create(name, name)

    def pid(self, name: str) -> int:
        """The pid of one of its processes, as it was at the start."""
        return int(self.facts["pids"][name])


@contextmanager
def running_up(commands: CommandLine, *options: str, name: str = "up") -> Iterator[RunningUp]:
    """Run `celeriac up` on a free port without a model, and end it at the end."""
    arguments = ("up", "--port", "0", "--no-model", "--json", *options)
    up = RunningUp(commands.start(name, *arguments))
    try:
        up.wait_ready()
        yield up
    finally:
        if up.program.exit_code is None:
            up.program.terminate()
            up.program.wait_end(within=_UP_SECONDS)
        up.program.close()


def _read_to_end(master: int, steps: Sequence[tuple[str, Callable[[int], None]]]) -> str:
    drawn, seen, left = b"", 0, list(steps)
    with os.fdopen(master, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(65_536)
            except OSError:  # the last one on the other side has gone
                part = b""
            if not part:
                return drawn.decode(errors="replace")
            drawn += part
            while left and (place := drawn.find(left[0][0].encode(), seen)) >= 0:
                sight, then = left.pop(0)
                seen = place + len(sight.encode())
                then(master)
