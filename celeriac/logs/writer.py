"""Writes log lines to the console, the service's file, a file per execution, and the day's errors.

Callers queue lines, and one thread writes them in batches. For each batch a file is opened,
appended to in one write of whole lines, and closed. So processes share a file without mixing lines
(O_APPEND), rotation needs no signal, a fork inherits no descriptor, and ten thousand executions
need no table of open files.
"""

import os
import re
import select
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from celeriac.kit.words import counted

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


_FORK_SECONDS = 2.0
"""The longest that a fork waits for the batch that is being written."""


class _Mark:
    """An item of the queue; `done` is set once everything before it is written."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.done = threading.Event()


class Writer:
    """Writes entries within `interval` seconds, in the order of submission.

    The thread starts with the first entry. It is stopped before a fork, so that no child inherits a
    half-written batch; parent and child each start their own with their next entry. The queue is
    reentrant, because signal handlers log. While `capacity` entries wait (the disk or the reader of
    the console is stuck), new ones are counted as lost: `submit` never blocks.
    """

    def __init__(
        self,
        destinations: Destinations,
        *,
        interval: float = 0.2,
        capacity: int = 50_000,
    ) -> None:
        self._destinations = destinations
        self._interval = interval
        self._capacity = capacity
        self._closed = False
        self._reset()
        _follow_forks(self)

    def submit(self, entry: Entry) -> None:
        """Queue `entry`. Never blocks, and never raises for a destination that fails."""
        if self._queue.qsize() >= self._capacity:
            self._overflow += 1
            return
        self._queue.put(entry)
        if self._thread is None and not self._forking:
            self._start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all earlier entries are written; return False after `timeout` seconds."""
        return self._pass_mark(stop=False, timeout=timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is left and stop; the calling thread itself writes later entries.

        Returns False after `timeout` seconds. Reports what is lost on stderr.
        """
        self._closed = True
        done = self._pass_mark(stop=True, timeout=timeout)
        if not done:
            complain(
                f"gave up after {timeout:g} s with {counted(self._queue.qsize(), 'line')} unwritten"
            )
        elif not self._queue.empty():
            self._start()
        for kind, lines in self._destinations.lost().items():
            complain(f"lost {counted(lines, 'line')} for {kind}")
        return done

    def pause(self) -> None:
        """Stop the thread before a fork."""
        self._forking = True
        self._pass_mark(stop=True, timeout=_FORK_SECONDS)

    def resume(self) -> None:
        """Continue after a fork, in the parent."""
        self._forking = False
        if not self._queue.empty():
            self._start()

    def restart(self) -> None:
        """Start over after a fork, in the child: the parent writes what waits."""
        self._destinations.reset()
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[Entry | _Mark] = SimpleQueue()
        self._starting = threading.RLock()  # reentrant: a signal may interrupt its holder
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._forking = False
        self._overflow = 0

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            if self._closed:
                self._write_batch(self._gather())
                return
            thread = threading.Thread(target=self._run, name="celeriac-logs", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                self._write_batch(self._gather())
            else:
                self._thread = thread

    def _pass_mark(self, *, stop: bool, timeout: float) -> bool:
        thread = self._thread
        if thread is None:
            return True
        mark = _Mark(stop=stop)
        self._queue.put(mark)
        self._wake.set()
        done = mark.done.wait(timeout)
        if stop and done:
            thread.join(timeout)
        return done

    def _run(self) -> None:
        stopped = False
        while not stopped:
            first = self._queue.get()
            self._wake.wait(self._interval)  # collect a batch, unless `flush` waits for it
            self._wake.clear()
            marks = self._write_batch([first, *self._gather()])
            stopped = any(mark.stop for mark in marks)
            if stopped:
                self._thread = None
            for mark in marks:
                mark.done.set()

    def _gather(self) -> list[Entry | _Mark]:
        batch: list[Entry | _Mark] = []
        with suppress(Empty):
            while True:
                batch.append(self._queue.get_nowait())
        return batch

    def _write_batch(self, batch: list[Entry | _Mark]) -> list[_Mark]:
        """Write the entries and return the marks, to be answered."""
        entries = [item for item in batch if isinstance(item, Entry)]
        overflow, self._overflow = self._overflow, 0
        if entries or overflow:
            self._destinations.write(entries, overflow=overflow)
        return [item for item in batch if isinstance(item, _Mark)]


def _follow_forks(writer: Writer) -> None:
    """Call `writer` around forks while it exists; such hooks can't be removed."""

    def hook(method: Callable[[], None]) -> Callable[[], None]:
        weak = weakref.WeakMethod(method)

        def call() -> None:
            if (present := weak()) is not None:
                present()

        return call

    os.register_at_fork(
        before=hook(writer.pause),
        after_in_parent=hook(writer.resume),
        after_in_child=hook(writer.restart),
    )
