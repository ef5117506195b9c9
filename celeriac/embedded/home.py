"""The home directory: paths, lock, ports and runtime files."""

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from celeriac.embedded.errors import AlreadyRunningError, HomeUnusableError, usable
from celeriac.embedded.service_user import give_directory
from celeriac.kit.processes import ProcessIdentity, UserIds, identify, still_running

DIRECTORY_NAME = ".celeriac"

_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600
_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IRWXO
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory: data, logs and secrets, private to one user.

    `Home.open` creates it; `Home.at` touches nothing. `root` is absolute.
    """

    root: Path

    @classmethod
    def at(cls, directory: Path | None = None) -> "Home":
        """Return the home in `directory`, by default `.celeriac`; touch nothing."""
        return cls((directory or Path(DIRECTORY_NAME)).resolve())

    @classmethod
    def open(cls, directory: Path | None = None) -> "Home":
        """Return the home in `directory`, created if it is missing, and closed to others.

        Raises HomeUnusableError where it can't be created or written, or belongs to another user.
        """
        home = cls.at(directory)
        if home.root.exists():
            _refuse_foreign(home.root)
        for path in (home.root, home.logs, home.secrets):
            private_directory(path)
        _write_once(home.root / ".gitignore", "*\n")
        return home

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        """Valkey's data directory."""
        return self.root / "valkey"

    @property
    def logs(self) -> Path:
        """Log files of the services (docs/logs.md), and one for each supervised process."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Generated passwords and keys, one file each."""
        return self.root / "secrets"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that runs the stack; it names that process."""
        return self.root / "lock"

    @property
    def stack_file(self) -> Path:
        """The addresses of the running stack."""
        return self.root / "stack.json"

    def log_file(self, name: str) -> Path:
        """Return the file of the output of the supervised process `name`.

        Not `.log`: API, worker and beat write log files of that name into this directory.
        """
        return self.logs / f"{name}.out"

    def secret(self, name: str) -> str:
        """Return the secret `name`, generated the first time (URL-safe, 256 bits).

        Raises HomeUnusableError where it can't be read or stored.
        """
        path = self.secrets / name
        _write_once(path, secrets.token_urlsafe(_SECRET_BYTES))
        with usable(path):
            value = path.read_text(encoding="utf-8").strip()
        if not value:
            raise HomeUnusableError(path, "the file is empty. Delete it to have a new secret made.")
        return value


def private_directory(path: Path) -> None:
    """Create the directory `path` for its owner alone; close an existing one to others.

    Raises HomeUnusableError.
    """
    _refuse_file(path)
    with usable(path):
        path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        if path.stat().st_mode & _OPEN_TO_OTHERS:
            path.chmod(_PRIVATE_DIRECTORY)


def write_private(path: Path, text: str) -> None:
    """Replace the file `path` in one step; only its owner can read it.

    A reader sees the old text or the new, never a part. Raises HomeUnusableError.
    """
    with usable(path), _draft(path, text) as draft:
        draft.replace(path)


def _write_once(path: Path, text: str) -> None:
    """Write the file unless it exists; of two concurrent writers one wins."""
    if not path.exists():
        with usable(path), _draft(path, text) as draft, suppress(FileExistsError):
            os.link(draft, path)


@contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    """Write `text` to a private file beside `path`, and remove it afterwards if it still exists."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise HomeUnusableError(path, "there is a file where a directory must be.")


def _refuse_foreign(root: Path) -> None:
    """Root is refused as well: it would leave files in a user's home that the user can't change."""
    _refuse_file(root)
    owner = root.stat().st_uid
    if owner != os.geteuid():
        raise HomeUnusableError(
            root,
            f"it belongs to user id {owner}, and this is user id {os.geteuid()}. Run Celeriac as "
            "that user, or choose another directory with CELERIAC_HOME.",
        )
    if not os.access(root, os.W_OK | os.X_OK):
        raise HomeUnusableError(root, "it can't be written. Choose another with CELERIAC_HOME.")


_PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.05


@contextmanager
def holding_lock(home: Home) -> Iterator[None]:
    """Hold the home's lock file, which names this process, during the block.

    By flock(2): the kernel releases it however the holder ends. Raises AlreadyRunningError where
    another process holds it, and HomeUnusableError.
    """
    path = home.lock_file
    me = identify(os.getpid())
    if me is None:
        raise HomeUnusableError(path, "/proc is needed to identify processes, and isn't mounted.")
    with ExitStack() as undo:
        with usable(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
            undo.callback(os.close, descriptor)
            _lock(home, descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        undo.callback(os.ftruncate, descriptor, 0)
        yield


def _lock(home: Home, descriptor: int) -> None:
    """Wait a moment for a holder that is ending."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                holder = _read_identity(home.lock_file)
                raise AlreadyRunningError(home.root, holder.pid if holder else None) from error
        time.sleep(_POLL_SECONDS)


def find_holder(home: Home) -> ProcessIdentity | None:
    """Return the process that runs this home's stack, or None.

    Takes no lock, which could keep a stack from starting.
    """
    holder = _read_identity(home.lock_file)
    return holder if holder and still_running(holder) else None


def _read_identity(path: Path) -> ProcessIdentity | None:
    """A holder may be writing: an incomplete file names no process."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ProcessIdentity(pid=int(values["pid"]), started=int(values["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


LOOPBACK = "127.0.0.1"


def reserve_port() -> int:
    """Return a free TCP port on the loopback interface, reserved for a minute.

    A connection closed from the listening side leaves the port in TIME_WAIT. The kernel assigns no
    such port by itself, but lets a server with SO_REUSEADDR, as ours have, bind it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)  # returns once the listening side has closed first
    return port


_SOCKET_PATH_BYTES = 107
"""unix(7): `sun_path` has 108 bytes, one of them for the final zero."""
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535"
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
_SHORTEST_PARENT = Path("/tmp")  # noqa: S108 - mkdtemp makes a private one in it


class RuntimeDirectory:
    """The directory of this home's sockets, owned by `user` (None: ourselves) and closed to others.

    It is `run` in the home or, where that path can't be a socket's, a directory with a random name
    among the temporary files, whose path is stored in the home.
    """

    def __init__(self, home: Home, user: UserIds | None) -> None:
        self._inside = home.root / "run"
        self._pointer = home.root / "run.path"
        self._user = user

    def prepare(self) -> Path:
        """Return the directory, created if it is missing. Raises HomeUnusableError."""
        with usable(self._inside, "no place for sockets: "):
            if _fits(self._inside):
                give_directory(self._inside, self._user)
                return self._inside
            return self._remembered() or self._make_outside()

    def remove(self) -> None:
        """Remove the directory if it is outside the home."""
        if directory := self._remembered():
            shutil.rmtree(directory, ignore_errors=True)
        self._pointer.unlink(missing_ok=True)

    def _remembered(self) -> Path | None:
        """The directory of an earlier run, unless something else has taken its place."""
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
    """Whether the path is short enough for sockets and has no special characters of host lists."""
    short = len(os.fsencode(directory / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES
    return short and _PLAIN_PATH.fullmatch(str(directory)) is not None
