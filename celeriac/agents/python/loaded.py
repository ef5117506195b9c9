"""Which files of users' modules this process has imported, and whether they have changed since.

Users' modules are those that lie neither in Python's own directories, nor among the installed
packages, nor in Celeriac. Standard library only: child processes import this.
"""

import os
import sys
import sysconfig
import threading
from pathlib import Path

_PYTHON = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 - compared as texts
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_INSTALLED = frozenset({"site-packages", "dist-packages"})

_Stamp = tuple[int, int]


class LoadedModules:
    """Remembers each module's file as it was when the module was first seen here. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._stamps: dict[str, _Stamp] = {}

    def note(self) -> None:
        """Remember the files of modules that were imported since the last call."""
        with self._lock:
            for name in [name for name in list(sys.modules) if name not in self._names]:
                self._names.add(name)
                file = _users_file(name)
                stamp = _stamp(file) if file else None
                if file and stamp:
                    self._stamps[file] = stamp

    def changed(self) -> list[Path]:
        """Return the files that are no longer as they were when they were imported.

        One that is gone doesn't count: editors replace files.
        """
        with self._lock:
            stamps = list(self._stamps.items())
        return [Path(file) for file, stamp in stamps if _stamp(file) not in {stamp, None}]

    def is_stale(self, name: str) -> bool:
        """Whether the file of a module has changed since it was imported."""
        file = _users_file(name)
        with self._lock:
            stamp = self._stamps.get(file) if file else None
        return stamp is not None and _stamp(str(file)) not in {stamp, None}


LOADED = LoadedModules()
"""Those of this process."""


def _users_file(name: str) -> str | None:
    if name.partition(".")[0] == "celeriac":
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    if not _INSTALLED.isdisjoint(Path(file).parts) or file.startswith(_PYTHON):
        return None
    return file


def _stamp(file: str) -> _Stamp | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - once a second for each file
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
