"""Removing directories that programs filled which nobody trusts."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

_OWN = 0o700
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def remove_tree(path: Path) -> bool:
    """Remove a directory with all that is in it; return whether nothing is left of it.

    Symbolic links are removed, never followed. Directories that their maker closed against
    everybody are opened first.
    """
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return True
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        _open_up(path)
        shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def remove_if_empty(path: Path) -> bool:
    """Remove a directory that has nothing in it; return whether it is gone."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _open_up(path: Path) -> None:
    """Let us write into every directory below `path`."""
    with suppress(OSError):
        path.chmod(_OWN)
    for _, folders, _, place in os.fwalk(path):
        for name in folders:
            # by its handle: the name may mean a link by now
            with suppress(OSError):
                handle = os.open(name, _PATH, dir_fd=place)
                try:
                    Path(f"/proc/self/fd/{handle}").chmod(_OWN)
                finally:
                    os.close(handle)
