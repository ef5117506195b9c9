"""Processes of the embedded stack: how one is run, and the record of those that run."""

import importlib.util
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from celeriac.embedded.errors import HomeUnusableError, ServerFailedError, ServerNotInstalledError
from celeriac.embedded.home import Home, write_private
from celeriac.embedded.output import open_for_appending, read_last_lines
from celeriac.kit.processes import (
    ProcessIdentity,
    UserIds,
    identify,
    launch,
    send_signal,
    still_running,
    terminate_group,
)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.05
_LAST_LINES = 12
_DISK_FULL_BYTES = 1024 * 1024

ReadyCheck = Callable[[], str | None]
"""Returns None once the process serves, else the reason why it doesn't; takes a few seconds at
most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One long-lived process: how to start it, know that it serves, and stop it.

    `env` is the whole environment, not an addition; `become` needs root. Without a ready check a
    process counts as ready once it runs. A process that still runs `stop_grace` seconds after the
    stop signal is killed with all its descendants. A line that contains a text of `unshown` is
    written to the log file, but not shown on the terminal.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    become: UserIds | None = None
    ready: ReadyCheck | None = None
    ready_within: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 10.0
    unshown: tuple[str, ...] = ()


def find_in_package(package: str, pattern: str, *, cure: str) -> Path:
    """Return the first file of an installed package that matches a glob pattern.

    Raises ServerNotInstalledError, which names the command `cure`.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerNotInstalledError(f"The package {package} isn't installed. Run: {cure}")
    for path in sorted(Path(spec.origin).parent.glob(pattern)):
        return path
    raise ServerNotInstalledError(
        f"The package {package} is damaged: it has no file {pattern}. Run: {cure}"
    )


@dataclass(frozen=True, slots=True)
class Child:
    """One process of a stack: its name, and its identity within one boot of the machine."""

    name: str
    pid: int
    started: int
    stop_signal: int

    @property
    def identity(self) -> ProcessIdentity:
        """The process, also after its pid was used again."""
        return ProcessIdentity(pid=self.pid, started=self.started)


class ChildRecord:
    """The processes of the running stack, in a file that only the holder of the lock writes."""

    def __init__(self, home: Home) -> None:
        self._path = home.root / "children.json"
        self._children: dict[str, Child] = {}

    def add(self, child: Child) -> None:
        """Add a process, in place of an earlier one of the same name.

        Where the file can't be written (a full disk), the process runs all the same. The next
        successful write includes it; it also dies with the stack itself (`kit.processes`).
        """
        self._children[child.name] = child
        self._write_if_possible()

    def remove(self, name: str) -> None:
        """Remove a process that has ended; its entry is harmless where that fails."""
        if self._children.pop(name, None) is not None:
            self._write_if_possible()

    def end_leftovers(self, grace_seconds: float) -> Sequence[Child]:
        """End the processes that an earlier run left behind; return those that had to be ended.

        All get their stop signals and, after `grace_seconds`, SIGKILL with all their descendants.
        Raises ServerFailedError where one survives SIGKILL.
        """
        found = [child for child in self._read() if still_running(child.identity)]
        for child in found:
            send_signal(child.identity, child.stop_signal)
            send_signal(child.identity, signal.SIGCONT)  # a stopped process handles no signals
        _wait_gone(found, grace_seconds)
        for child in found:
            if survivors := terminate_group(child.identity, 0):
                pids = ", ".join(str(each.pid) for each in survivors)
                raise ServerFailedError(
                    child.name, f"an earlier run left it running and it can't be ended: {pids}."
                )
        self._children.clear()
        self._write()
        return found

    def _read(self) -> list[Child]:
        """A record of another boot, or a damaged one, names no running process."""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["boot"] != _boot_id():
                return []
            return [Child(**values) for values in stored["children"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _write_if_possible(self) -> None:
        with suppress(HomeUnusableError):
            self._write()

    def _write(self) -> None:
        values = [asdict(child) for child in self._children.values()]
        write_private(self._path, json.dumps({"boot": _boot_id(), "children": values}))


def _wait_gone(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(still_running(child.identity) for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _boot_id() -> str:
    """Start times count from boot, so they identify processes only within one boot."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class ManagedProcess:
    """Runs a spec, one process at a time, with its output in a log file.

    The process dies with the thread that called `start` (celeriac.kit.processes), by its stop
    signal. With a `record`, the next run ends it if it survives this one.
    """

    def __init__(self, spec: ProcessSpec, log: Path, record: ChildRecord | None = None) -> None:
        self.spec = spec
        self.log = log
        self._record = record
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: ProcessIdentity | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The pid while the process runs, else None."""
        return self._child.pid if self._child and self._child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: the signal); None while it runs and before the first start."""
        return self._child.poll() if self._child else None

    def start(self, *, stdin: IO[bytes] | None = None) -> None:
        """Start the process without waiting until it serves. Raises ServerFailedError."""
        spec = self.spec
        try:
            with open_for_appending(self.log) as output:
                self._log_start = self.log.stat().st_size
                self._child = launch(
                    spec.argv,
                    env=spec.env,
                    cwd=spec.cwd,
                    stdin=stdin or subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    death_signal=spec.stop_signal,
                    become=spec.become,
                )
        except OSError as error:
            raise ServerFailedError(spec.name, f"it can't be started: {error}") from error
        self._identity = identify(self._child.pid)
        if self._record and self._identity:
            self._record.add(
                Child(spec.name, self._identity.pid, self._identity.started, spec.stop_signal)
            )

    def request_stop(self) -> None:
        """Send the stop signal to the process itself, not to its children."""
        if self._identity and self.pid is not None:
            send_signal(self._identity, self.spec.stop_signal)
            send_signal(self._identity, signal.SIGCONT)  # a stopped process handles no signals

    def wait_end(self, seconds: float) -> int | None:
        """Wait up to `seconds` for it to end; return its exit code, or None if it still runs."""
        if self._child is None:
            return None
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Send the stop signal, wait for the grace time, then kill. Harmless if it doesn't run."""
        self.request_stop()
        self.wait_end(self.spec.stop_grace)
        self.kill()

    def kill(self) -> None:
        """Kill it with all its descendants."""
        if self._identity and self._child:
            terminate_group(self._identity, 0)
            self._child.wait()
        if self._record:
            self._record.remove(self.spec.name)

    def failure(self, reason: str) -> ServerFailedError:
        """Return the error for `reason`, with the last lines that the process wrote.

        A full disk is named: it may have lost the lines that say so.
        """
        if _is_full(self.log.parent):
            reason += f" The disk that holds {self.log.parent} is full."
        lines = read_last_lines(self.log, _LAST_LINES, since=self._log_start)
        return ServerFailedError(
            self.spec.name, reason, log=self.log, last_lines=lines, exit_code=self.exit_code
        )


def run_to_end(
    spec: ProcessSpec, log: Path, *, stdin: IO[bytes] | None = None, within: float = 120.0
) -> None:
    """Run a command to its end, with its output in `log`.

    Raises ServerFailedError where it fails or takes longer than `within` seconds.
    """
    process = ManagedProcess(spec, log)
    process.start(stdin=stdin)
    try:
        code = process.wait_end(within)
    finally:
        process.kill()
    if code is None:
        raise process.failure(f"it took longer than {within:.0f} s and was stopped.")
    if code != 0:
        raise process.failure(f"it failed ({describe_exit(code)}).")


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < _DISK_FULL_BYTES
    except OSError:
        return False


def describe_exit(code: int | None) -> str:
    """Describe how a process ended."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
