"""A directory with a short path for Unix sockets."""

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from celeriac.embedded.errors import HomeUnusableError
from celeriac.embedded.home import Home, write_private
from celeriac.embedded.service_user import give_directory
from celeriac.kit.process import UserIds

_SOCKET_PATH_BYTES = 107
"""unix(7): `sun_path` has 108 bytes, one of them for the final zero."""
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535"
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
_SHORTEST_PARENT = Path("/tmp")  # noqa: S108 - mkdtemp makes a private one in it


class RuntimeDirectory:
    """Where this home's sockets lie; it belongs to `user` (None: us) and is closed to all others.

    That is `run` in the home or, where its path can't be a socket's, a directory of random name
    among the temporary files, remembered in the home.
    """

    def __init__(self, home: Home, user: UserIds | None) -> None:
        self._inside = home.root / "run"
        self._pointer = home.root / "run.path"
        self._user = user

    def prepare(self) -> Path:
        """Return the directory, made if need be. Raises HomeUnusableError."""
        try:
            if _fits(self._inside):
                give_directory(self._inside, self._user)
                return self._inside
            return self._remembered() or self._make_outside()
        except OSError as error:
            raise HomeUnusableError(
                self._inside, f"no place for sockets: {error.strerror or error}."
            ) from error

    def remove(self) -> None:
        """Remove the directory, if it lies outside the home."""
        if directory := self._remembered():
            shutil.rmtree(directory, ignore_errors=True)
        self._pointer.unlink(missing_ok=True)

    def _remembered(self) -> Path | None:
        """The directory of an earlier run, unless something else is there by now."""
        try:
            directory = Path(self._pointer.read_text(encoding="utf-8").strip())
            status = directory.lstat()
        except OSError:
            return None
        owner = self._user.user if self._user else os.geteuid()
        private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == stat.S_IRWXU
        return directory if private and status.st_uid == owner else None

    def _make_outside(self) -> Path:
        parent = Path(tempfile.gettempdir())
        if not _fits(parent / "celeriac-12345678"):
            parent = _SHORTEST_PARENT
        directory = Path(tempfile.mkdtemp(prefix="celeriac-", dir=parent))
        write_private(self._pointer, str(directory))
        give_directory(directory, self._user)
        return directory


def _fits(directory: Path) -> bool:
    """Whether sockets may lie there: a short path, without what means something in host lists."""
    short = len(os.fsencode(directory / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES
    return short and _PLAIN_PATH.fullmatch(str(directory)) is not None
