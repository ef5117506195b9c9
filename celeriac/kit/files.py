"""Reads and removes directories that untrusted programs write to.

Every component of a path is opened by itself, relative to the one before and without following
symbolic links. Properties of a file are read from the open file. So nothing outside can be reached,
whatever is renamed or replaced by a link meanwhile.
"""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from celeriac.kit.json_types import has_utf8

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


# not blocking: opening a named pipe waits for its writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_EARLIEST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LATEST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()

_PERMISSIONS = 0o777
_DEEPEST = 32
_LONGEST = 4096
_LONGEST_FOUND = 2_000
"""Bytes of a path that is found: an entry of an index of PostgreSQL has at most 2,700."""

_MOST_IN_ONE = 10_000
"""Entries of one directory that are read."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file, a symbolic link or an empty directory.

    `path` is relative, with slashes; `size` in bytes, `mode` the permissions. `target` is where a
    link leads.
    """

    path: str
    size: int
    mode: int
    modified_at: datetime
    target: str | None = None
    is_directory: bool = False
    changed_ns: int = 0
    """When its content or properties changed last, which no program can set."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a directory, on all levels, in the order of the components of the paths."""

    entries: Sequence[FileEntry]
    skipped: int
    """Number of entries left out: devices, pipes, names that aren't UTF-8, too deep levels, too
    long paths, and what exceeds the limit."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file, open for reading; `size` is its size when it was opened."""

    file: BinaryIO
    size: int
    modified_at: datetime

    def chunks(self, size: int = 1 << 16) -> Iterator[bytes]:
        """Yield the content, up to the size when it was opened, and close the file."""
        left = self.size
        with self.file:
            while left and (chunk := self.file.read(min(size, left))):
                left -= len(chunk)
                yield chunk


class Folder:
    """A directory below a trusted one. Thread-safe."""

    def __init__(self, base: Path, *below: str) -> None:
        """The directory `base/below…`; `base` is trusted, everything below it is not."""
        self._base = base
        self._below = below

    def exists(self) -> bool:
        """Whether the directory exists."""
        try:
            with self._opened():
                return True
        except OSError:
            return False

    def is_empty(self) -> bool:
        """Whether there is nothing in the directory, or none; False for one that can't be read."""
        try:
            with self._opened() as place, os.scandir(place) as found:
                return next(found, None) is None
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def scan(self, *, most: int) -> Scan:
        """Return up to `most` entries of all levels. Raises OSError for a missing directory."""
        found: list[FileEntry] = []
        skipped = 0
        with self._opened() as root:
            for entry in _walk(root, ()):
                if entry is None or len(found) == most:
                    skipped += 1
                else:
                    found.append(entry)
        return Scan(found, skipped)

    def open(self, path: str) -> OpenFile:
        """Open a file for reading.

        Raises ValueError for a path that isn't plain and relative, OSError for a missing file, one
        that isn't regular, or one behind a symbolic link.
        """
        *folders, name = path_parts(path)
        with self._opened(*folders) as place:
            handle = os.open(name, _FILE, dir_fd=place)
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            os.close(handle)
            raise FileNotFoundError(f"{path} is not a regular file")
        return OpenFile(os.fdopen(handle, "rb"), facts.st_size, _modified(facts))

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Give the block the open directory. Raises OSError for a missing one, and for a link."""
        with self._opened() as place:
            yield place

    @contextmanager
    def _opened(self, *inside: str) -> Iterator[int]:
        with ExitStack() as stack:
            place = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, place)
            for name in (*self._below, *inside):
                place = os.open(name, _DIRECTORY, dir_fd=place)
                stack.callback(os.close, place)
            yield place


def path_parts(path: str) -> tuple[str, ...]:
    """Return the components of a relative path. Raises ValueError for one that isn't plain."""
    parts = tuple(path.split("/"))
    if len(path) > _LONGEST or any(part in {"", ".", ".."} for part in parts) or "\0" in path:
        raise ValueError("must be a relative path without empty parts, `.` and `..`")
    return parts


def _walk(place: int, inside: tuple[str, ...]) -> Iterator[FileEntry | None]:
    """Yield what is below the open directory `place`, and None for each entry left out."""
    with os.scandir(place) as entries:
        # listed first and opened by name: properties of an entry may be outdated
        names = [entry.name for entry in islice(entries, _MOST_IN_ONE)]
        yield from (None for _ in entries)
    for name in sorted(names):
        yield from _entry(place, (*inside, name))
    if inside and not names:
        yield _found(inside, os.fstat(place), is_directory=True)


def _entry(place: int, parts: tuple[str, ...]) -> Iterator[FileEntry | None]:
    name = parts[-1]
    try:
        facts = os.stat(name, dir_fd=place, follow_symlinks=False)
        target = os.readlink(name, dir_fd=place) if stat.S_ISLNK(facts.st_mode) else None
    except FileNotFoundError:
        return  # removed meanwhile
    except OSError:  # its directory was closed
        yield None
        return
    if not has_utf8(name) or not has_utf8(target or ""):
        yield None
    elif stat.S_ISDIR(facts.st_mode) and len(parts) < _DEEPEST:
        try:
            folder = os.open(name, _DIRECTORY, dir_fd=place)
        except OSError:
            yield None
            return
        try:
            yield from _walk(folder, parts)
        finally:
            os.close(folder)
    elif target is not None or stat.S_ISREG(facts.st_mode):
        yield _found(parts, facts, target)
    else:
        yield None


def _found(
    parts: tuple[str, ...],
    facts: os.stat_result,
    target: str | None = None,
    *,
    is_directory: bool = False,
) -> FileEntry | None:
    path = "/".join(parts)
    if len(path.encode()) > _LONGEST_FOUND:
        return None
    size = 0 if is_directory or target is not None else facts.st_size
    mode = stat.S_IMODE(facts.st_mode) & _PERMISSIONS
    return FileEntry(
        path, size, mode, _modified(facts), target, is_directory, changed_ns=facts.st_ctime_ns
    )


def _modified(facts: os.stat_result) -> datetime:
    """Return the time of a file; programs set times that no calendar has."""
    return datetime.fromtimestamp(min(max(facts.st_mtime, _EARLIEST), _LATEST), UTC)


_OWN = 0o700
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def remove_tree(path: Path) -> bool:
    """Remove a directory with its content, or what else is there; return whether nothing is left.

    Symbolic links are removed, never followed. Directories that were closed to everybody are opened
    first, and may be nested in any depth.
    """
    if path.is_symlink() or not path.is_dir():  # `rmtree` would wait for a writer of a pipe
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return not os.path.lexists(path)
    with suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        with suppress(OSError):
            _remove_flat(path)
    return not path.exists()


def move_away(path: Path, to: Path) -> None:
    """Move a directory, a link or a file to a place on the same file system, if it is there.

    A directory may be closed to everybody. Raises OSError.
    """
    if not os.path.lexists(path):
        return
    above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _open_up(above, path.name)  # to move it, its entry `..` is written
        os.rename(path.name, to, src_dir_fd=above)
    finally:
        os.close(above)


def remove_if_empty(path: Path) -> bool:
    """Remove an empty directory; return whether it no longer exists."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remove_flat(path: Path) -> None:
    """Remove a directory without recursion: what is two levels below it is moved up, repeatedly.

    Three directories are open at a time. Raises OSError.
    """
    above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _open_up(above, path.name)
        top = os.open(path.name, _DIRECTORY, dir_fd=above)
        try:
            removed = True
            while removed:
                gone = [_remove_inner(top, name) for name in _folders_left(top)]
                removed = any(gone)
        finally:
            os.close(top)
        os.rmdir(path.name, dir_fd=above)
    finally:
        os.close(above)


def _remove_inner(top: int, name: str) -> bool:
    """Remove a directory in `top`, to which its own move; return whether it is gone."""
    with suppress(OSError):
        _open_up(top, name)
        place = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for each in _folders_left(place):
                _open_up(place, each)  # to move it, its entry `..` is written
                os.rename(each, uuid4().hex, src_dir_fd=place, dst_dir_fd=top)
        finally:
            os.close(place)
        os.rmdir(name, dir_fd=top)
        return True
    return False


def _folders_left(place: int) -> list[str]:
    """Remove all from a directory but its directories, and return these."""
    found = []
    for name in os.listdir(place):
        if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            found.append(name)
        else:
            with suppress(OSError):
                os.unlink(name, dir_fd=place)
    return found


def _open_up(place: int, name: str) -> None:
    """Give ourselves the right to write to a directory, by its descriptor: it may be a link now."""
    with suppress(OSError):
        handle = os.open(name, _PATH, dir_fd=place)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(_OWN)
        finally:
            os.close(handle)
