"""Copies files of sessions, as the user who owns them.

Standard library only, and no project imports: where agents run as another user, this file is run
by its path as that user. So links that an agent has made lead only where it may go itself.
"""

import os
import shutil
import stat
import sys
from collections.abc import Sequence

_COPIED = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})


def copy_trees(*pairs: tuple[str, str]) -> None:
    """Copy each first directory into the second, which may exist.

    Links are copied as links; pipes, sockets and devices are left out. Raises OSError.
    """
    for source, target in pairs:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=_special)


def _special(directory: str, names: list[str]) -> list[str]:
    """Return the names of what is neither a file nor a directory nor a link."""
    return [
        name
        for name in names
        if stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) not in _COPIED  # noqa: PTH118
    ]


def main(paths: Sequence[str]) -> int:
    """Copy the trees at `paths`: a source and its target, by turns."""
    try:
        copy_trees(*zip(paths[::2], paths[1::2], strict=True))
    except (OSError, shutil.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
