"""Errors of the servers that Celeriac runs itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from celeriac.domain.errors import CeleriacError


class EmbeddedError(CeleriacError):
    """An embedded server or its directory can't be used."""

    code: ClassVar[str] = "embedded_failed"


class HomeUnusableError(EmbeddedError):
    """The home, or a file in it, can't be read, written or trusted; `path` names it."""

    code = "home_unusable"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", path=str(path))
        self.path = path


@contextmanager
def usable(path: Path, doing: str = "") -> Iterator[None]:
    """Raise HomeUnusableError, which names `path`, for errors of the file system in the block.

    The text begins with `doing`.
    """
    try:
        yield
    except OSError as error:
        reason = f"{doing}{error.strerror or error}. Free or repair it, or choose another with "
        raise HomeUnusableError(path, f"{reason}CELERIAC_HOME.") from error


class AlreadyRunningError(EmbeddedError):
    """Another process runs the stack of this home; `pid` is None where it is unknown."""

    code = "already_running"

    def __init__(self, home: Path, pid: int | None, *, api_url: str | None = None) -> None:
        """`api_url` is None where it is unknown, for example while the other process starts."""
        who = f"process {pid}" if pid else "another process"
        where = f", its API at {api_url}" if api_url else ""
        super().__init__(
            f"Celeriac is already running in {home} ({who}{where}). Stop it first, or give this "
            "one a home of its own with CELERIAC_HOME.",
            home=str(home),
            pid=pid,
        )
        self.pid = pid


class ServerFailedError(EmbeddedError):
    """A server did not start, or did not become ready.

    `name` is the server's, `log` the file of its output, `last_lines` the end of that file,
    `exit_code` that of a process that has ended.
    """

    code = "server_failed"

    def __init__(
        self,
        name: str,
        reason: str,
        *,
        log: Path | None = None,
        last_lines: Sequence[str] = (),
        exit_code: int | None = None,
    ) -> None:
        parts = [f"{name}: {reason}"]
        if last_lines:
            parts += ["Its last lines:", *(f"  {line}" for line in last_lines)]
        if log is not None:
            parts.append(f"Log: {log}")
        super().__init__("\n".join(parts), server=name, log=str(log) if log else None)
        self.name = name
        self.log = log
        self.last_lines = tuple(last_lines)
        self.exit_code = exit_code


class ServerNotInstalledError(EmbeddedError):
    """The package of an embedded server is missing; the message says how to install it."""

    code = "server_not_installed"


class WeightsFetchError(EmbeddedError):
    """The weights of the local model could not be fetched; nothing was changed."""

    code = "weights_fetch_failed"


class StopRequestedError(EmbeddedError):
    """A stop was requested (Ctrl-C, SIGTERM) while servers were starting."""

    code = "stop_requested"
