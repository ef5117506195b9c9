"""Lets another user reach files in directories that are closed to it, and nothing else.

The home or the virtual environment may be in a directory of root (/root is 0700 nearly everywhere).
Opening it to everybody would weaken the machine; an access control entry that lets one user pass
through does not. The entries are written as extended attributes: minimal images have no setfacl(1).
"""

import errno
import os
import stat
import struct
from pathlib import Path

from celeriac.kit.processes import UserIds

# The kernel's xattr format (linux/posix_acl_xattr.h): a version, then (tag, permissions, id).
_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
_OWNER, _USER, _GROUP_OWNER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_MASKED = (_USER, _GROUP_OWNER, _GROUP)
_SEARCH = 0x1
_READ = 0x4
_MOST_LINKS = 40

# Permissions by tag and id; sorted by these is the order that the kernel demands.
_Entries = dict[tuple[int, int], int]


def grant_search(path: Path, user: UserIds) -> None:
    """Let `user` pass through every directory above `path`, and above the target of a link.

    The user still can't list them. On a file system without access control lists the directories
    become passable (not readable) for everybody. Raises OSError.
    """
    for directory in _directories_above(path):
        if not _permits(directory, user, _SEARCH):
            _grant_search_of(directory, user)


def grant_reading(directory: Path) -> None:
    """Let everybody read the files under `directory`, an installed package without secrets.

    Needed where the package was installed under a strict umask. Raises OSError.
    """
    for folder, _, files in os.walk(directory):
        _add_mode(Path(folder), stat.S_IROTH | stat.S_IXOTH)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                owner_runs = path.stat().st_mode & stat.S_IXUSR
                _add_mode(path, stat.S_IROTH | (stat.S_IXOTH if owner_runs else 0))


def first_closed(path: Path, user: UserIds, *, above: bool = True) -> Path | None:
    """Return the path that keeps `user` from reading `path`, or from running a program; or None.

    It is a directory above the file, unless `above` is false, or the file or directory itself.
    Links are followed. Raises OSError for a missing path.
    """
    for directory in _directories_above(path) if above else ():
        if not _permits(directory, user, _SEARCH):
            return directory
    place = path.resolve(strict=True)
    mode = place.stat().st_mode
    wanted = _READ
    if stat.S_ISDIR(mode):
        wanted |= _SEARCH
    elif mode & stat.S_IXUSR:
        wanted = _SEARCH  # a program need not be readable
    return None if _permits(place, user, wanted) else place


def _directories_above(path: Path) -> list[Path]:
    """Return the directories above `path` and above the target of a link, from the root down."""
    found: dict[Path, None] = {}
    place = path.absolute()
    for _ in range(_MOST_LINKS):
        directory = place.parent.resolve()
        found |= dict.fromkeys((*reversed(directory.parents), directory))
        if not place.is_symlink():
            break
        place = directory / place.readlink()
    return list(found)


def _permits(path: Path, user: UserIds, bits: int) -> bool:
    """Whether `user`, who is in its own group only, has the rights `bits` on `path`."""
    status = path.stat()
    entries = _read_entries(path)
    mask = entries.get((_MASK, _NO_ID), bits)
    if status.st_uid == user.user:
        granted = status.st_mode >> 6
    elif (_USER, user.user) in entries:
        granted = entries[_USER, user.user] & mask
    elif status.st_gid == user.group:
        granted = entries[_GROUP_OWNER, _NO_ID] & mask
    else:
        granted = status.st_mode
    return granted & bits == bits


def _grant_search_of(directory: Path, user: UserIds) -> None:
    entries = _read_entries(directory)
    mask = entries.get((_MASK, _NO_ID), entries[_GROUP_OWNER, _NO_ID])
    # The mask limits named users and groups. It must allow our entry and change no other.
    for tag, who in entries:
        if tag in _MASKED:
            entries[tag, who] &= mask
    entries[_USER, user.user] = entries.get((_USER, user.user), 0) | _SEARCH
    entries[_MASK, _NO_ID] = mask | _SEARCH
    packed = b"".join(_ENTRY.pack(tag, bits, who) for (tag, who), bits in sorted(entries.items()))
    try:
        os.setxattr(directory, _ATTRIBUTE, _VERSION + packed)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        _add_mode(directory, stat.S_IXOTH)


def _read_entries(directory: Path) -> _Entries:
    """Return the access control list of the directory, or the equivalent of its mode bits."""
    try:
        packed = os.getxattr(directory, _ATTRIBUTE)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS):
            raise
        mode = directory.stat().st_mode
        return {
            (_OWNER, _NO_ID): mode >> 6 & 7,
            (_GROUP_OWNER, _NO_ID): mode >> 3 & 7,
            (_OTHER, _NO_ID): mode & 7,
        }
    entries = _ENTRY.iter_unpack(packed[len(_VERSION) :])
    return {(tag, who): bits for tag, bits, who in entries}


def _add_mode(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
