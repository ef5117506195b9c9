"""Destinations of log lines: console, file of the service, file per execution, errors of the day.

For each batch a file is opened, appended to in one write of whole lines, and closed. So processes
share a file without mixing lines (O_APPEND), rotation needs no signal, a fork inherits no
descriptor, and ten thousand executions need no table of open files.
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
    """For the console: the same, or the form for people."""
    execution_id: str | None
    error_date: str | None
    """UTC date (YYYY-MM-DD) of a line of level error or critical, else None."""


def execution_file(directory: Path, execution_id: str) -> Path:
    """Return the log file of one execution."""
    return directory / f"task-execution-{execution_id}.log"


def error_file(directory: Path, date: str) -> Path:
    """Return the file of the errors of executions on one UTC day (YYYY-MM-DD)."""
    return directory / "errors" / f"task-errors-{date}.log"


class Destinations:
    """Writes batches of entries. Lines that can't be written are counted; nothing is raised."""

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
        """Set the counts of lost lines to 0, as in a new process."""
        self._lost: dict[str, int] = defaultdict(int)
        self._recovered: dict[str, int] = defaultdict(int)

    def write(self, entries: Sequence[Entry], *, overflow: int = 0) -> None:
        """Write `entries` in order; `overflow` lines were dropped before them."""
        if overflow:
            self._recovered["queue"] += overflow
        self._write(entries)
        if self._recovered:
            recovered, self._recovered = self._recovered, defaultdict(int)
            self._write([self._report(kind, lines) for kind, lines in recovered.items()])

    def lost(self) -> Mapping[str, int]:
        """Return the number of lines lost, by destination that does not work now."""
        return {kind: lines for kind, lines in self._lost.items() if lines}

    def _write(self, entries: Sequence[Entry]) -> None:
        if self._service_file is not None:
            self._put("service", self._service_file, [entry.line for entry in entries])
        if self._directory is not None:
            self._write_executions(self._directory, entries)
        if self._console is not None:  # last: a reader that doesn't read blocks
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
    """Report a problem of the logs themselves on the process's standard error."""
    with suppress(OSError):  # there is no other place to report it
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
            poll = select.poll()
            poll.register(handle, select.POLLOUT)
            poll.poll()
