"""Locks of files and directories between processes, by flock(2)."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PRIVATE_FILE = 0o600


def lock(path: Path, flags: int = os.O_RDONLY, *, shared: bool = False) -> int | None:
    """Open a file or directory and lock it, alone or shared; `unlock` the returned descriptor.

    Returns None at once if it is locked otherwise. Raises OSError if it can't be opened.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock(descriptor: int) -> None:
    """Unlock and close what `lock` has returned."""
    # a child that was forked meanwhile has the descriptor, too
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def locked_alone(path: Path, flags: int = os.O_RDONLY) -> Iterator[int | None]:
    """Hold the lock of a file or directory alone while the block runs.

    Yields its descriptor, or None if it is locked otherwise. Raises OSError as `lock` does.
    """
    descriptor = lock(path, flags)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            unlock(descriptor)
