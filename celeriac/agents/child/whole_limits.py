"""Limits of all processes of a sandbox together: measured in threads, and enforced by SIGKILL.

One thread of a worker process measures the memory of all its sandboxes, another one their files.
Both rest longer where measuring takes longer, so that they use no more than a few percent of a
processor; that of the memory rests at most a second, since a program can make measuring slow.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from celeriac.domain.errors import CeleriacError, DiskLimitError, MemoryLimitError
from celeriac.kit.processes import ProcessIdentity, descendants_of
from celeriac.kit.sandbox import Sandbox, WholeLimits, uncovered_as_named
from celeriac.kit.usage import UnmeasurableError, disk_of, held_by, memory_of
from celeriac.kit.words import counted

_log = structlog.get_logger()

_MEGABYTE = 1024 * 1024
_MEMORY_SECONDS = 0.25
_DISK_SECONDS = 1.0
_MOST_MEMORY_SECONDS = 1.0
"""The longest pause: a sandbox whose memory takes long to measure must not hide that of others."""
_MOST_DISK_SECONDS = 60.0
_REST = 20
"""How many times longer than a measurement the pause after it is at least."""

Leader = Callable[[], ProcessIdentity | None]


@dataclass(slots=True, eq=False)
class WatchedSandbox:
    """The sandbox of an attempt, whose processes descend from `leader`.

    `exceeded` is the error of the limit for which they were killed.
    """

    leader: Leader
    limits: WholeLimits
    directories: tuple[Path, ...]
    exceeded: CeleriacError | None = None
    over: bool = field(default=False, repr=False)
    """Whether watching has ended; nothing is killed after that."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def measure_memory(self, pids: list[int]) -> None:
        """Kill the processes `pids` of the sandbox if they hold too much memory."""
        limit = self.limits.memory
        if limit is None:
            return
        try:
            used = memory_of(pids, held_by(pids, self.directories).memory, limit)
        except UnmeasurableError as error:
            self.end(MemoryLimitError(f"The memory of the attempt can't be measured: {error}."))
            return
        if used > limit:
            message = (
                f"The processes of the attempt held {_megabytes(used)} MB of memory together, "
                "with /tmp and /dev/shm, and were ended: their limit is "
                f"{_megabytes(limit)} MB. Have the agent do less at once, or raise "
                "CELERIAC_CONFINEMENT_MEMORY_MB of the worker."
            )
            self.end(MemoryLimitError(message, used_bytes=used, limit_bytes=limit))

    def measure_disk(self, pids: list[int]) -> None:
        """Kill the processes `pids` of the sandbox if it has too large or too many files."""
        limits = self.limits
        if limits.disk is None and limits.files is None:
            return
        try:
            held = held_by(pids, self.directories)
            use = disk_of(self.directories, max_bytes=limits.disk, max_files=limits.files)
        except UnmeasurableError as error:
            self.end(DiskLimitError(f"The files of the attempt can't be measured: {error}."))
            return
        size, files = use.size + held.disk, use.files + held.files
        places = ", ".join(map(str, self.directories))
        if limits.disk is not None and size > limits.disk:
            message = (
                f"The attempt had at least {_megabytes(size)} MB of files in {places}, and was "
                f"ended: its limit is {_megabytes(limits.disk)} MB. Remove files there, or raise "
                "CELERIAC_CONFINEMENT_DISK_MB of the worker."
            )
            self.end(DiskLimitError(message, used_bytes=size, limit_bytes=limits.disk))
        elif limits.files is not None and files > limits.files:
            message = (
                f"The attempt had at least {counted(files, 'file')}, with directories, in {places} "
                f"and in its /tmp and /dev/shm, and was ended: its limit is {limits.files:,}. "
                "Remove files there, or raise CELERIAC_CONFINEMENT_FILES of the worker."
            )
            self.end(DiskLimitError(message, used_files=files, limit_files=limits.files))

    def end(self, error: CeleriacError) -> None:
        """Kill the sandbox: its first process takes the others along."""
        with self.lock:
            leader = self.leader()
            if self.over or leader is None:
                return
            self.exceeded = self.exceeded or error
            for pid in descendants_of([leader]).get(leader, ()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _megabytes(size: int) -> str:
    return f"{-(-size // _MEGABYTE):,}"


class _Watch:
    """A thread that measures all watched sandboxes in turn, while there are any."""

    def __init__(
        self,
        name: str,
        measure: Callable[[WatchedSandbox, list[int]], None],
        error: type[CeleriacError],
        seconds: float,
        most_seconds: float,
    ) -> None:
        self._name = name
        self._measure, self._error = measure, error
        self._seconds, self._most_seconds = seconds, most_seconds
        self._watched: list[WatchedSandbox] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, sandbox: WatchedSandbox) -> None:
        with self._condition:
            self._watched.append(sandbox)
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify()

    def remove(self, sandbox: WatchedSandbox) -> None:
        with self._condition:
            self._watched.remove(sandbox)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._watched)
                watched = list(self._watched)
            started = time.monotonic()
            try:
                self._round(watched)
            except Exception:  # noqa: BLE001 - without this thread nothing would be limited
                _log.exception("confinement.measure_failed")
            took = time.monotonic() - started
            time.sleep(min(max(self._seconds, took * _REST), self._most_seconds))

    def _round(self, watched: Iterable[WatchedSandbox]) -> None:
        leaders = {each: each.leader() for each in watched}
        below = descendants_of({each for each in leaders.values() if each is not None})
        for each, leader in leaders.items():
            pids = None if leader is None else below.get(leader)
            if pids and not each.over:
                try:
                    self._measure(each, pids)
                except Exception as error:  # noqa: BLE001 - a limit that can't be had fails closed
                    _log.exception("confinement.measure_failed")
                    each.end(self._error(f"What the attempt uses can't be measured: {error}."))


_WATCHES = (
    _Watch(
        "memory of sandboxes",
        WatchedSandbox.measure_memory,
        MemoryLimitError,
        _MEMORY_SECONDS,
        _MOST_MEMORY_SECONDS,
    ),
    _Watch(
        "files of sandboxes",
        WatchedSandbox.measure_disk,
        DiskLimitError,
        _DISK_SECONDS,
        _MOST_DISK_SECONDS,
    ),
)


@contextlib.contextmanager
def within_limits(
    sandbox: Sandbox | None, leader: Leader, directories: Iterable[Path]
) -> Iterator[None]:
    """Run the block while the processes below `leader` keep to the limits of the whole `sandbox`.

    `directories` are those that it writes to. Where they exceed a limit they are killed, and at
    its end, unless that is a cancellation, the block raises MemoryLimitError or DiskLimitError.
    """
    if sandbox is None or sandbox.whole == WholeLimits():
        yield
        return
    # so that nothing counts twice
    outermost = tuple(uncovered_as_named(each.absolute() for each in directories))
    watched = WatchedSandbox(leader, sandbox.whole, outermost)
    for each in _WATCHES:
        each.add(watched)
    try:
        yield
    except Exception:
        if watched.exceeded is not None:
            # without the death of the child that it caused, which would read as another reason
            raise watched.exceeded from None
        raise
    finally:
        for each in _WATCHES:
            each.remove(watched)
        with watched.lock:
            watched.over = True
    if watched.exceeded is not None:
        raise watched.exceeded
