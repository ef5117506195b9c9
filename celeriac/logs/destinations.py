"""Where lines go: the console, the service's file, a file per execution, the errors of the day.

Files are opened, appended to with one write of whole lines, and closed, once per batch. So
several processes share a file without mixing lines (O_APPEND), rotation needs no signal, a fork
inherits no handle, and ten thousand executions need no table of open files.
"""

import os
import re
import select
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_FILE_MODE = 0o640
_SAFE_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_STDERR = 2


class Entry(NamedTuple):
    """One rendered line. All bytes end in a newline."""

    line: bytes
    """JSON, for files."""
    console: bytes
    """What the console shows: the same, or its pretty form."""
    execution_id: str | None
    error_date: str | None
    """UTC date of an error-level line, else None."""


def execution_file(directory: Path, execution_id: str) -> Path:
    """Return the log file of one execution."""
    return directory / f"task-execution-{execution_id}.log"


def error_file(directory: Path, date: str) -> Path:
    """Return the file of the failed executions' errors of one UTC day (YYYY-MM-DD)."""
    return directory / "errors" / f"task-errors-{date}.log"


class Destinations:
    """Writes batches of entries. What the system refuses is counted and told, never raised."""

    def __init__(
        self,
        *,
        console: int | None,
        report: Callable[[str, int], Entry],
        directory: Path | None = None,
        service_file: str | None = None,
        execution_files: bool = True,
    ) -> None:
        """`console` is a file descriptor; `report(kind, lines)` makes the entry on lost lines."""
        self._console = console
        self._report = report
        self._directory = directory
        self._service_file = directory / service_file if directory and service_file else None
        self._execution_files = execution_files
        self.reset()

    def reset(self) -> None:
        """Forget what was lost, as in a new process."""
        self._lost: dict[str, int] = defaultdict(int)
        self._recovered: dict[str, int] = defaultdict(int)

    def write(self, entries: Sequence[Entry], *, overflow: int = 0) -> None:
        """Write `entries`, in order; `overflow` says how many more never came here."""
        if overflow:
            self._recovered["queue"] += overflow
        self._write(entries)
        if self._recovered:
            recovered, self._recovered = self._recovered, defaultdict(int)
            self._write([self._report(kind, lines) for kind, lines in recovered.items()])

    def lost(self) -> Mapping[str, int]:
        """Return the lines lost by kinds of destination that do not work at present."""
        return {kind: lines for kind, lines in self._lost.items() if lines}

    def _write(self, entries: Sequence[Entry]) -> None:
        if self._service_file is not None:
            self._put("service", self._service_file, [entry.line for entry in entries])
        if self._directory is not None:
            self._write_executions(self._directory, entries)
        if self._console is not None:  # last: its reader may block
            self._put("console", self._console, [entry.console for entry in entries])

    def _write_executions(self, directory: Path, entries: Iterable[Entry]) -> None:
        executions: dict[str, list[bytes]] = defaultdict(list)
        errors: dict[str, list[bytes]] = defaultdict(list)
        for line, _, execution_id, error_date in entries:
            if execution_id is None:
                continue
            executions[execution_id].append(line)
            if error_date is not None:
                errors[error_date].append(line)
        if self._execution_files:
            for execution_id, lines in executions.items():
                if _SAFE_ID.fullmatch(execution_id):
                    self._put("executions", execution_file(directory, execution_id), lines)
        for date, lines in errors.items():
            self._put("errors", error_file(directory, date), lines)

    def _put(self, kind: str, target: Path | int, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            if isinstance(target, int):
                _write_all(target, data)
            else:
                _append_file(target, data)
        except OSError as error:
            if not self._lost[kind]:
                where = "the console" if isinstance(target, int) else target
                complain(
                    f"cannot write to {where}: {error.strerror}; lines are lost until it works"
                )
            self._lost[kind] += len(lines)
        else:
            if self._lost[kind]:
                self._recovered[kind] += self._lost.pop(kind)


def complain(message: str) -> None:
    """Tell the process's standard error of trouble with the logs themselves."""
    with suppress(OSError):  # nobody is left to tell
        os.write(_STDERR, f"celeriac logs: {message}\n".encode())


def _append_file(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, _FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, flags, _FILE_MODE)
    try:
        _write_all(handle, data)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(handle, rest) :]
        except BlockingIOError:  # a non-blocking pipe that is full
            room = select.poll()
            room.register(handle, select.POLLOUT)
            room.poll()
