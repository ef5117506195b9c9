"""Reads the log file of one execution part by part, also while it is written and rotated.

A position is the file and the offset behind a line, so a reader continues where it was, and notices
that another file has taken the place. Only whole lines are read: the last one may be incomplete.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self
from uuid import UUID

from celeriac.kit.files import Folder
from celeriac.logs.reading import LogLine, parse_line
from celeriac.logs.writer import execution_file

MOST_BYTES = 1 << 20
"""What one read takes from the file; a line has at most 64 kB (`celeriac.logs`)."""

_POSITION = re.compile(r"(\d{1,20})-(\d{1,19})")
_FROM_WORKER = (b'"service":"worker"', b'"service":"agent"')
_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """The place behind a line: the inode of its file, and the offset in bytes."""

    file: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position of `str(position)`. Raises ValueError."""
        found = _POSITION.fullmatch(text)
        if found is None:
            raise ValueError("must be the `next_after` of an answer")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.file}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Part:
    """Whole lines of a file, in their order, each with the position behind it."""

    lines: Sequence[tuple[bytes, Position]]
    position: Position
    """Behind all that was read, malformed lines included."""
    more: bool
    """Whether more was there already."""
    restarted: bool = False
    """Whether another file had taken the place, so that lines may be missing before these."""

    def parsed(self) -> list[tuple[LogLine, Position]]:
        """Return the lines that are well-formed."""
        found = ((parse_line(raw), position) for raw, position in self.lines)
        return [(line, position) for line, position in found if line is not None]


class ExecutionLog:
    """The log file of one execution; symbolic links are not followed."""

    def __init__(self, directory: Path, execution_id: UUID) -> None:
        path = execution_file(directory, str(execution_id))
        self._folder, self._name = Folder(path.parent), path.name

    def open(self) -> BinaryIO:
        """Open the file. Raises OSError without a regular file."""
        return self._folder.open(self._name).file

    def read(self, after: Position | None, *, most_lines: int) -> Part:
        """Return up to `most_lines` that follow `after`. Raises OSError without a regular file."""
        with self.open() as file:
            here = _facts(file)
            known = after is not None and after.file == here.file and after.offset <= here.offset
            begin = after.offset if after is not None and known else 0
            part = _read(file, here, begin, most_lines)
        return part if known or after is None else _restarted(part)

    def tail(self, lines: int) -> Part:
        """Return the last `lines`, of the last `MOST_BYTES`. Raises OSError as `read` does."""
        with self.open() as file:
            here = _facts(file)
            begin = max(0, here.offset - MOST_BYTES)
            if begin:
                file.seek(begin)
                begin += len(file.readline())  # of which only the end would be read
            part = _read(file, here, begin, MOST_BYTES)
        kept = part.lines[len(part.lines) - lines :] if lines < len(part.lines) else part.lines
        return Part(kept if lines else (), part.position, part.more)

    def has_worker(self) -> bool:
        """Whether a worker's line is at the begin of the file. Raises OSError as `read` does."""
        with self.open() as file:
            head = file.read(_HEAD_BYTES)
        return any(each in head for each in _FROM_WORKER)


class Follower:
    """Reads a file on while it is written; what it has open is read to its end when rotated."""

    def __init__(self, log: ExecutionLog, after: Position | None) -> None:
        self._log = log
        self._position = after
        self._file: BinaryIO | None = None

    def read(self, *, most_lines: int = 500) -> Part | None:
        """Return what follows; None without a file. Call `close` at the end."""
        if self._file is not None:
            here = _facts(self._file)
            if self._position is not None and here.offset >= self._position.offset:
                part = _read(self._file, here, self._position.offset, most_lines)
                if part.lines or part.more or self._is_same(here):
                    self._position = part.position
                    return part
            self.close()  # rotated or cut off, and read to its end
            self._position = None
        return self._opened(most_lines)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_same(self, here: Position) -> bool:
        with suppress(OSError), self._log.open() as file:
            return _facts(file).file == here.file
        return True  # removed: there is nothing else to read

    def _opened(self, most_lines: int) -> Part | None:
        try:
            part = self._log.read(self._position, most_lines=most_lines)
            self._file = self._log.open()
        except OSError:
            return None
        if _facts(self._file).file != part.position.file:  # rotated in between
            self.close()
        self._position = part.position
        return part


def _facts(file: BinaryIO) -> Position:
    """Return the file and its size."""
    facts = os.fstat(file.fileno())
    return Position(facts.st_ino, facts.st_size)


def _restarted(part: Part) -> Part:
    return Part(part.lines, part.position, part.more, restarted=True)


def _read(file: BinaryIO, here: Position, begin: int, most_lines: int) -> Part:
    file.seek(begin)
    data = file.read(min(MOST_BYTES, here.offset - begin))
    lines: list[tuple[bytes, Position]] = []
    offset = 0
    while len(lines) < most_lines and (end := data.find(b"\n", offset)) >= 0:
        lines.append((data[offset:end], Position(here.file, begin + end + 1)))
        offset = end + 1
    if not lines and len(data) == MOST_BYTES:
        offset = len(data)  # no line is so long: it is skipped
    more = data.find(b"\n", offset) >= 0 or begin + len(data) < here.offset
    return Part(lines, Position(here.file, begin + offset), more)
