"""Log files and terminal output of the embedded stack."""

import os
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.text import Text

MOST_BYTES = 16 * 1024 * 1024
"""A larger log is moved to `NAME.out.1`, in place of an earlier one."""

_READ_BYTES = 256 * 1024
_LAST_BYTES = 16 * 1024


def open_for_appending(path: Path) -> BinaryIO:
    """Open a log for a process to write; only its owner can read it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def read_last_lines(path: Path, count: int, *, since: int = 0) -> Sequence[str]:
    """Return up to `count` last lines of a log, from byte `since` on."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = since if since <= size else 0  # it was moved meanwhile
            file.seek(max(start, size - _LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return [line for line in lines if line.strip()][-count:]


class LogFollower:
    """Reads the lines that are written to a log after the follower is made."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._position = _size(path)
        self._rest = b""

    def read_lines(self) -> Sequence[str]:
        """Return the complete lines that were written since the last call; never waits.

        Rotates the log once all of it is read and it is too large.
        """
        try:
            return self._read_lines()
        except OSError:  # deleted or closed meanwhile: nobody's work depends on it
            return ()

    def _read_lines(self) -> Sequence[str]:
        size = _size(self._path)
        if size < self._position:
            self._position, self._rest = 0, b""
        if size == self._position:
            if size > self._most_bytes:
                self._rotate()
            return ()
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read(_READ_BYTES)
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _READ_BYTES:  # an endless line
            lines, self._rest = [*lines, self._rest], b""
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def _rotate(self) -> None:
        """Copy the log and truncate it: its writer keeps the file open and appends to it.

        Lines that are written in between are lost. On a full disk there is no copy.
        """
        copy = self._path.with_name(f"{self._path.name}.1")
        try:
            shutil.copyfile(self._path, copy)
        except OSError:
            copy.unlink(missing_ok=True)
        os.truncate(self._path, 0)
        self._position = 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")
_NAME_WIDTH = 9


class Terminal:
    """Writes lines that begin with the name of the process that wrote them, a colour for each.

    rich decides whether the console shows colours.
    """

    def __init__(self, console: Console, *, own_name: str = "up", quiet: bool = False) -> None:
        """`own_name` begins the supervisor's lines; `quiet` shows no others."""
        self._console = console
        self._own_name = own_name
        self._quiet = quiet
        self._fresh_colours = cycle(_COLOURS)
        self._styles = {own_name: "bold"}
        self._gone = False

    def show(self, name: str, line: str) -> None:
        """Show one line that the process `name` has written.

        Once the terminal is gone (closed, broken pipe), nothing is shown any more and no error is
        raised: the processes must still be stopped in order, and their logs are in files.
        """
        if self._gone or (self._quiet and name != self._own_name):
            return
        if name not in self._styles:
            self._styles[name] = next(self._fresh_colours)
        prefix = Text(f"{name:<{_NAME_WIDTH}}│ ", style=self._styles[name])
        try:
            self._console.print(prefix + Text.from_ansi(line), soft_wrap=True)
        except OSError:
            self._gone = True

    def say(self, line: str) -> None:
        """Show one line of the supervisor."""
        self.show(self._own_name, line)
