"""PgBouncer in transaction mode, as Debian packages it, in front of a test's PostgreSQL."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from celeriac.embedded.home import LOOPBACK, reserve_port
from celeriac.embedded.postgres import ENVIRONMENT, ROLE, Postgres
from celeriac.embedded.process import ProcessSpec
from celeriac.embedded.service_user import give_directory
from tests.support.places import temporary_directory
from tests.support.servers import RunningServer, packaged_program

_CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = {users}
admin_users = {role}
default_pool_size = {connections}
max_client_conn = 200
server_login_retry = 1
server_tls_sslmode = disable
"""


_PROGRAM = "pgbouncer"
FEW = 4
"""Fewer than the processes would open, so that they take turns."""


def is_installed() -> bool:
    """Whether Debian's package is there."""
    return shutil.which(_PROGRAM, path=f"{os.environ['PATH']}:/usr/sbin") is not None


class PgBouncer(RunningServer):
    """A pooler with a few connections to each database; its address stays the same."""

    def __init__(
        self,
        postgres: Postgres,
        directory: Path,
        *,
        server: str | None,
        connections: int,
    ) -> None:
        """It leads to `server`, as PgBouncer names it, or to the socket of `postgres`."""
        self._port = reserve_port()
        self._password = postgres.password
        users, settings = directory / "users", directory / "pgbouncer.ini"
        users.write_text(f'"{ROLE}" "{postgres.password}"\n')
        settings.write_text(
            _CONFIGURATION.format(
                server=server or f"host={postgres.sockets} port=5432",
                connections=connections,
                host=LOOPBACK,
                port=self._port,
                users=users,
                role=ROLE,
            )
        )
        give_directory(directory, postgres.user)
        spec = ProcessSpec(
            name="pgbouncer",
            argv=(packaged_program(_PROGRAM, _PROGRAM), str(settings)),
            env=ENVIRONMENT,
            cwd=directory,
            become=postgres.user,  # it refuses to run as root
            ready=self._fault,
            stop_signal=signal.SIGINT,
        )
        super().__init__(spec, directory.with_suffix(".log"))

    def url(self, database: str) -> str:
        """Return the URL of a database through the pooler; `pgbouncer` is its console."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self._port}/{database}"

    def connect_anew(self) -> None:
        """Close the connections to the server as soon as they are free."""
        with psycopg.connect(self.url(_PROGRAM), autocommit=True) as console:
            console.execute("RECONNECT", prepare=False)

    def _fault(self) -> str | None:
        try:
            psycopg.connect(self.url(_PROGRAM), connect_timeout=2).close()
        except psycopg.Error as error:
            return str(error)
        return None


@contextmanager
def running_pgbouncer(
    postgres: Postgres, *, server: str | None = None, connections: int = FEW
) -> Iterator[PgBouncer]:
    """Run a pooler in a temporary directory, and remove both at the end."""
    with temporary_directory() as directory:
        place = directory / "pgbouncer"
        place.mkdir()
        pooler = PgBouncer(postgres, place, server=server, connections=connections)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.kill()
