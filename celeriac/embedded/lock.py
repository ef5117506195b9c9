"""One running stack for each home."""

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

from celeriac.embedded.errors import AlreadyRunningError, HomeUnusableError
from celeriac.embedded.home import Home
from celeriac.kit.process import ProcessIdentity, identify, still_running

_PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.05


class HomeLock:
    """Holds the home's lock file with flock(2): the kernel frees it however the holder ends.

    A context manager; entering raises AlreadyRunningError where another process holds it.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our identity into it. Raises AlreadyRunningError."""
        path = self._home.lock_file
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnusableError(path, error.strerror or str(error)) from error
        try:
            self._lock(descriptor)
            _write_holder(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; harmless if it isn't held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "HomeLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _lock(self, descriptor: int) -> None:
        """A holder that is on its way out gets a moment."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    holder = _read_identity(self._home.lock_file)
                    pid = holder.pid if holder else None
                    raise AlreadyRunningError(self._home.root, pid) from error
                time.sleep(_POLL_SECONDS)
            else:
                return


def find_holder(home: Home) -> ProcessIdentity | None:
    """Return the process that runs this home's stack, or None.

    Takes no lock, so that looking never keeps a stack from starting.
    """
    holder = _read_identity(home.lock_file)
    return holder if holder and still_running(holder) else None


def _write_holder(descriptor: int, path: Path) -> None:
    identity = identify(os.getpid())
    if identity is None:
        raise HomeUnusableError(path, "/proc is needed to tell processes apart, and isn't mounted.")
    text = json.dumps({"pid": identity.pid, "started": identity.started})
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        raise HomeUnusableError(path, error.strerror or str(error)) from error


def _read_identity(path: Path) -> ProcessIdentity | None:
    """A holder may be writing just now: what isn't whole counts as nobody."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ProcessIdentity(pid=int(values["pid"]), started=int(values["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
