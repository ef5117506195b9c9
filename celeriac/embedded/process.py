"""Processes of the embedded stack, and the record of their ids."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from celeriac.embedded.errors import HomeUnusableError, ServerFailedError
from celeriac.embedded.home import Home, write_private
from celeriac.embedded.output import open_for_appending, read_last_lines
from celeriac.embedded.spec import ProcessSpec
from celeriac.kit.processes import (
    ProcessIdentity,
    identify,
    launch,
    send_signal,
    still_running,
    terminate_group,
)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Child:
    """One process of a stack: its name there, and its identity within one boot of the machine."""

    name: str
    pid: int
    started: int
    stop_signal: int

    @property
    def identity(self) -> ProcessIdentity:
        """The process itself, whatever became of its pid."""
        return ProcessIdentity(pid=self.pid, started=self.started)


class ChildRecord:
    """The list, kept in the home. Only the holder of the home's lock may write it."""

    def __init__(self, home: Home) -> None:
        self._path = home.children_file
        self._children: dict[str, Child] = {}

    def add(self, child: Child) -> None:
        """Remember a process, in place of an earlier one of the same name.

        Where that can't be written (a full disk), the process runs even so. The next change that
        is written names it; it also dies with the stack itself (`kit.process`).
        """
        self._children[child.name] = child
        with suppress(HomeUnusableError):
            self._write()

    def remove(self, name: str) -> None:
        """Forget a process that has ended.

        Where that can't be written (a full disk), stopping the others goes on: an entry whose
        process has gone misleads nobody.
        """
        if self._children.pop(name, None) is not None:
            with suppress(HomeUnusableError):
                self._write()

    @property
    def children(self) -> Sequence[Child]:
        """Those that run, in the order they were started."""
        return tuple(self._children.values())

    def end_leftovers(self, grace_seconds: float) -> Sequence[Child]:
        """End what an earlier run left running, and forget it; return what had to be ended.

        Each gets its stop signal and, after `grace_seconds` for all together, SIGKILL with all
        that came from it. Raises ServerFailedError where one survives even that.
        """
        found = [child for child in self._read() if still_running(child.identity)]
        for child in found:
            send_signal(child.identity, child.stop_signal)
            send_signal(child.identity, signal.SIGCONT)  # a stopped one would not see it
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
        """A record of another boot, or one that was damaged, names nobody who still runs."""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["boot"] != _boot_id():
                return []
            return [Child(**values) for values in stored["children"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _write(self) -> None:
        values = [asdict(child) for child in self._children.values()]
        write_private(self._path, json.dumps({"boot": _boot_id(), "children": values}))


def _wait_gone(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(still_running(child.identity) for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _boot_id() -> str:
    """Start times count from boot, so they tell processes apart only within one."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


LAST_LINES = 12
_ROOM_TO_WORK = 1024 * 1024


class ManagedProcess:
    """Runs a spec, one process at a time, with its output in a log file.

    The process dies with the thread that called `start` (celeriac.kit.processes), by its stop
    signal. Give a `record` to have it ended by the next run if it outlives us even so.
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
        """The pid while it runs, else None."""
        return self._child.pid if self._child and self._child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last one ended (negative: the signal); None while it runs or before."""
        return self._child.poll() if self._child else None

    def start(self, *, stdin: IO[bytes] | None = None) -> None:
        """Start it, without waiting until it serves. Raises ServerFailedError."""
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

    def check_ready(self) -> str | None:
        """Return None if it serves, else why not. Raises ServerFailedError if it has ended."""
        if self.pid is None:
            raise self.failure(f"it ended at its start ({describe_exit(self.exit_code)}).")
        return self.spec.ready() if self.spec.ready else None

    def wait_ready(self) -> None:
        """Wait until it serves. Raises ServerFailedError where it ends or takes too long."""
        deadline = time.monotonic() + self.spec.ready_within
        while (reason := self.check_ready()) is not None:
            if time.monotonic() >= deadline:
                raise self.failure(
                    f"it was not ready after {self.spec.ready_within:.0f} s: {reason}"
                )
            time.sleep(_POLL_SECONDS)

    def request_stop(self) -> None:
        """Send the stop signal, to the process itself alone; its own children are its business."""
        if self._identity and self.pid is not None:
            send_signal(self._identity, self.spec.stop_signal)
            send_signal(self._identity, signal.SIGCONT)  # a stopped one would not see it

    def wait_end(self, seconds: float) -> int | None:
        """Wait up to `seconds` for it to end; return its exit code, or None if it still runs."""
        if self._child is None:
            return None
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Stop it: the stop signal, its grace time, then SIGKILL. Harmless if it doesn't run."""
        self.request_stop()
        self.wait_end(self.spec.stop_grace)
        self.kill()

    def kill(self) -> None:
        """End it at once, with all that came from it."""
        if self._identity and self._child:
            terminate_group(self._identity, 0)
            self._child.wait()
        self.forget()

    def forget(self) -> None:
        """Strike it from the record, once it has ended."""
        if self._record:
            self._record.remove(self.spec.name)

    def failure(self, reason: str) -> ServerFailedError:
        """Return the error that says why, with the last lines that this start has written.

        A full disk is named, since the lines that would tell of it may be lost with it.
        """
        if _is_full(self.log.parent):
            reason += f" The disk that holds {self.log.parent} is full."
        lines = read_last_lines(self.log, LAST_LINES, since=self._log_start)
        return ServerFailedError(
            self.spec.name, reason, log=self.log, last_lines=lines, exit_code=self.exit_code
        )


def run_to_end(
    spec: ProcessSpec, log: Path, *, stdin: IO[bytes] | None = None, within: float = 120.0
) -> None:
    """Run a preparing command to its end, its output in `log`.

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
        return shutil.disk_usage(directory).free < _ROOM_TO_WORK
    except OSError:
        return False


def describe_exit(code: int | None) -> str:
    """Say in words how a process ended."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
