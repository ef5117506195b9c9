"""One process of the stack: started, watched, stopped."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

from celeriac.embedded.children import Child, ChildRecord
from celeriac.embedded.errors import ServerFailedError
from celeriac.embedded.logfile import open_for_appending, read_last_lines
from celeriac.embedded.spec import ProcessSpec
from celeriac.kit.process import (
    ProcessIdentity,
    identify,
    launch,
    send_signal,
    terminate_group,
)

LAST_LINES = 12
_ROOM_TO_WORK = 1024 * 1024
_POLL_SECONDS = 0.05


class ManagedProcess:
    """Runs a spec, one process at a time, with its output in a log file.

    The process dies with the thread that called `start` (celeriac.kit.process), by its stop
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
        return ServerFailedError(self.spec.name, reason, log=self.log, last_lines=lines)


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
