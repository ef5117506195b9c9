"""The directory that holds everything an embedded stack keeps."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from celeriac.embedded.errors import HomeUnusableError

DIRECTORY_NAME = ".celeriac"

_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600
_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IRWXO
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory: data, logs, working directories and secrets, private to one user.

    `Home.open` makes it; `Home.at` only says where it would be. `root` is absolute.
    """

    root: Path

    @classmethod
    def at(cls, directory: Path | None = None) -> "Home":
        """Return the home in `directory` (`.celeriac` where we are, if None), touching nothing."""
        return cls((directory or Path(DIRECTORY_NAME)).resolve())

    @classmethod
    def open(cls, directory: Path | None = None) -> "Home":
        """Return the home in `directory` as `at` does, made if missing and closed to others.

        Raises HomeUnusableError where it can't be made or written, or belongs to another user.
        """
        home = cls.at(directory)
        if home.root.exists():
            _refuse_foreign(home.root)
        for path in (home.root, home.logs, home.workdirs, home.secrets):
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
        """Log files: those of the services (docs/logs.md) and one for each supervised process."""
        return self.root / "logs"

    @property
    def workdirs(self) -> Path:
        """Working directories of sessions."""
        return self.root / "workdirs"

    @property
    def secrets(self) -> Path:
        """Generated passwords and keys, one file each."""
        return self.root / "secrets"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that runs the stack, and naming it."""
        return self.root / "lock"

    @property
    def children_file(self) -> Path:
        """The processes that the running stack has started."""
        return self.root / "children.json"

    @property
    def stack_file(self) -> Path:
        """Where the running stack can be reached."""
        return self.root / "stack.json"

    def log_file(self, name: str) -> Path:
        """Return where the output of the supervised process `name` goes.

        Not `.log`: API, worker and beat write log files of theirs into this directory too.
        """
        return self.logs / f"{name}.out"

    def secret(self, name: str) -> str:
        """Return the secret `name`, made at random the first time (URL-safe, 256 bits).

        Raises HomeUnusableError where it can't be read or stored.
        """
        path = self.secrets / name
        _write_once(path, secrets.token_urlsafe(_SECRET_BYTES))
        try:
            value = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise HomeUnusableError(path, _explain(error)) from error
        if not value:
            raise HomeUnusableError(path, "the file is empty. Delete it to have a new secret made.")
        return value


def private_directory(path: Path) -> None:
    """Make the directory `path` for its owner alone, or close it to others if it exists.

    Raises HomeUnusableError where that fails.
    """
    try:
        path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        if path.stat().st_mode & _OPEN_TO_OTHERS:
            path.chmod(_PRIVATE_DIRECTORY)
    except FileExistsError as error:
        raise HomeUnusableError(path, "there is a file where a directory must be.") from error
    except OSError as error:
        raise HomeUnusableError(path, _explain(error)) from error


def write_private(path: Path, text: str) -> None:
    """Replace the file `path` in one step; nobody but its owner can read it.

    A reader sees the old text or the new, never a part. Raises HomeUnusableError.
    """
    try:
        with _draft(path, text) as draft:
            draft.replace(path)
    except OSError as error:
        raise HomeUnusableError(path, _explain(error)) from error


def _write_once(path: Path, text: str) -> None:
    """Write the file unless it exists; of two writers at once, one wins whole."""
    if path.exists():
        return
    try:
        with _draft(path, text) as draft, suppress(FileExistsError):
            os.link(draft, path)
    except OSError as error:
        raise HomeUnusableError(path, _explain(error)) from error


@contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    """Write `text` to a private file beside `path`, and remove it afterwards if still there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _refuse_foreign(root: Path) -> None:
    """Root, too, is refused in a user's home: it would leave files that the user can't touch."""
    if not root.is_dir():
        raise HomeUnusableError(root, "there is a file where a directory must be.")
    owner = root.stat().st_uid
    if owner != os.geteuid():
        raise HomeUnusableError(
            root,
            f"it belongs to user id {owner}, and this is user id {os.geteuid()}. Run Celeriac as "
            "that user, or choose another directory with CELERIAC_HOME.",
        )
    if not os.access(root, os.W_OK | os.X_OK):
        raise HomeUnusableError(root, "it can't be written. Choose another with CELERIAC_HOME.")


def _explain(error: OSError) -> str:
    return f"{error.strerror or error}. Free or repair it, or choose another with CELERIAC_HOME."
