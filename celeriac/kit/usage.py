"""What the processes and directories of a sandbox use: memory, disk space and files.

Measured from outside, from /proc and by reading directories. It blocks.
"""

import contextlib
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celeriac.kit.processes import read_of_process

PRIVATE_PLACES = ("tmp", "dev/shm")
"""The file systems of a sandbox that are memory, below its root."""

INODE_BYTES = 1024
"""What a file of a file system in memory costs the kernel without its contents."""

MAX_DESCRIPTORS = 100_000
MAX_DEPTH = 256
MAX_SECONDS = 2.0
"""Processor time that the pages of one sandbox may take to count."""

_BLOCK = 512
_KILOBYTE = 1024
_RESIDENT = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_OWN_SHARE = (b"Pss_Anon:", b"SwapPss:")
_SHARED = (b"Pss_Shmem:",)
_DELETED = b" (deleted)"


class UnmeasurableError(Exception):
    """What an attempt uses can't be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a sandbox holds in file systems that are memory, and in files without a name.

    Bytes; `files` counts those with a name.
    """

    memory: int = 0
    disk: int = 0
    files: int = 0


def memory_of(pids: Collection[int], held: int, enough: int) -> int:
    """Return the bytes of memory of processes, and of `held` bytes in files that are memory.

    Pages that processes share count once. More than `enough` is measured exactly, less is an upper
    bound, which costs less. What a process maps of files on disk does not count: the kernel can
    take it back. Where another process's pages may not be read, shared ones count several times.
    Raises UnmeasurableError where that takes too long, as with very many mappings.
    """
    rough = sum(_kilobytes(read_of_process(pid, "status"), _RESIDENT) or 0 for pid in pids)
    if rough * _KILOBYTE + held <= enough:
        return rough * _KILOBYTE + held
    own = shared = 0
    started = time.thread_time()
    for pid in pids:
        if time.thread_time() - started > MAX_SECONDS:
            raise UnmeasurableError(f"counting its pages takes more than {MAX_SECONDS:g} s")
        text = read_of_process(pid, "smaps_rollup")
        if text is None:  # it has ended, or is not ours to read
            own += _kilobytes(read_of_process(pid, "status"), _RESIDENT) or 0
            continue
        own += _kilobytes(text, _OWN_SHARE) or 0
        shared += _kilobytes(text, _SHARED) or 0
    return own * _KILOBYTE + max(shared * _KILOBYTE, held)


def _kilobytes(text: bytes | None, names: Sequence[bytes]) -> int | None:
    if text is None:
        return None
    lines = (line.split() for line in text.splitlines())
    return sum(int(words[1]) for words in lines if len(words) > 1 and words[0] in names)


def held_by(pids: Iterable[int], disk: Iterable[Path]) -> Held:
    """Return what the sandbox of the processes `pids` holds; `disk` are its directories on disk.

    Nothing while the sandbox is being made. Raises UnmeasurableError where its files can't be seen.
    """
    members = list(pids)
    root = _root(members)
    if root is None:
        return Held()
    memory = files = 0
    own: set[int] = set()
    for name in PRIVATE_PLACES:
        try:
            found, place = os.statvfs(f"{root}/{name}"), os.stat(f"{root}/{name}")  # noqa: PTH116
        except (FileNotFoundError, ProcessLookupError):
            return Held()
        except PermissionError as error:
            raise UnmeasurableError(f"{root}/{name} can't be read") from error
        inodes = found.f_files - found.f_ffree
        memory += (found.f_blocks - found.f_bfree) * found.f_frsize + inodes * INODE_BYTES
        files += inodes
        own.add(place.st_dev)
    on_disk = {each.stat().st_dev for each in disk if each.exists()}
    disk_bytes = 0
    for device, size in _unnamed(members):
        if device in on_disk:
            disk_bytes += size
        elif device not in own:
            memory += size
    return Held(memory, disk_bytes, files)


def _root(pids: Iterable[int]) -> str | None:
    """Return the root of the sandbox in /proc; None before there is one."""
    ours = os.stat("/")  # noqa: PTH116
    refused: str | None = None
    for pid in pids:
        root = f"/proc/{pid}/root"
        try:
            found = os.stat(root)  # noqa: PTH116
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            refused = root
            continue
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            return root
    if refused is not None:
        raise UnmeasurableError(f"{refused} can't be read")
    return None


def _unnamed(pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return device and bytes of the files without a name that are open or mapped.

    Deleted ones, memfds and shared memory. A mapped file is there after its descriptor was closed;
    a process that is not root can't see the size of those.
    """
    seen: set[tuple[int, int]] = set()
    count = 0
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names are all we need
        except OSError:  # it has ended, or hides itself as bubblewrap's own processes do
            continue
        paths = [f"/proc/{pid}/fd/{name}" for name in names]
        paths += _mapped_without_name(pid)
        count += len(paths)
        if count > MAX_DESCRIPTORS:
            raise UnmeasurableError(f"more than {MAX_DESCRIPTORS:,} files are open")
        for path in paths:
            with contextlib.suppress(OSError):
                found = os.stat(path)  # noqa: PTH116
                key = (found.st_dev, found.st_ino)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0 and key not in seen:
                    seen.add(key)
                    yield found.st_dev, found.st_blocks * _BLOCK


def _mapped_without_name(pid: int) -> list[str]:
    """Return where /proc shows the deleted files that a process maps, one place for each."""
    found: dict[bytes, str] = {}
    for line in (read_of_process(pid, "maps") or b"").splitlines():
        if line.endswith(_DELETED):
            place, _, _, device, inode, *_ = line.split(None, 5)
            start, _, end = place.partition(b"-")
            found[device + b" " + inode] = (
                f"/proc/{pid}/map_files/{int(start, 16):x}-{int(end, 16):x}"
            )
    return list(found.values())


@dataclass(slots=True)
class DiskUse:
    """Bytes on disk and number of files and directories."""

    size: int = 0
    files: int = 0


def disk_of(
    directories: Iterable[Path], *, max_bytes: int | None, max_files: int | None
) -> DiskUse:
    """Return what `directories` hold; reading ends where one of the limits is exceeded.

    Hard links count once, links are not followed. Raises UnmeasurableError for a directory that
    may not be read, or is nested too deep: files could be hidden there.
    """
    use, linked = DiskUse(), set[tuple[int, int]]()
    for each in directories:
        try:
            root = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnmeasurableError(f"{each} can't be read") from error
        for found in _entries(root, 0):
            key = (found.st_dev, found.st_ino)
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if key in linked:
                    continue
                linked.add(key)
            use.size += found.st_blocks * _BLOCK
            use.files += 1
            if (max_bytes is not None and use.size > max_bytes) or (
                max_files is not None and use.files > max_files
            ):
                return use
    return use


def _entries(directory: int, depth: int) -> Iterator[os.stat_result]:
    """Return the status of all files below an open directory, and close it.

    By descriptors, because the agent may replace a directory by a link meanwhile.
    """
    if depth > MAX_DEPTH:
        os.close(directory)
        raise UnmeasurableError(f"directories are nested deeper than {MAX_DEPTH}")
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise UnmeasurableError(f"the file {entry.name!r} can't be read") from error
                yield found
                if not stat.S_ISDIR(found.st_mode):
                    continue
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inner = os.open(entry.name, flags, dir_fd=directory)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise UnmeasurableError(
                        f"the directory {entry.name!r} can't be read"
                    ) from error
                yield from _entries(inner, depth + 1)
    finally:
        os.close(directory)
