"""Log files of supervised processes: written by them, read by us.

The processes write to the files themselves. A pipe through the supervisor would make them wait
when the terminal does (Ctrl-S), and break when the supervisor is killed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_ROTATE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024
_LAST_BYTES = 16 * 1024


def open_for_appending(path: Path) -> BinaryIO:
    """Open a log for a process to write; an overgrown one is first put aside as `NAME.log.1`."""
    if path.exists() and path.stat().st_size > _ROTATE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def read_last_lines(path: Path, count: int, *, since: int = 0) -> Sequence[str]:
    """Return up to `count` last lines of a log, none of them from before byte `since`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - _LAST_BYTES) if since <= size else 0)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return [line for line in lines if line.strip()][-count:]


class LogFollower:
    """Reads a growing log line by line, from its end at the time the follower is made.

    Follows a log that was emptied or put aside.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._position = _measure(path)
        self._rest = b""

    def read_lines(self) -> Sequence[str]:
        """Return the whole lines that came since the last call; never waits."""
        inode, size = _measure(self._path)
        if inode != self._inode or size < self._position:
            self._inode, self._position, self._rest = inode, 0, b""
        if size == self._position:
            return ()
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read(_READ_BYTES)
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]


def _measure(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size
