"""PgBouncer in transaction mode, as Debian packages it, in front of a test's PostgreSQL."""

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
from tests.support.servers import PostgresServer, RunningServer, packaged_program

_CONFIGURATION = """
[databases]
* = host={sockets} port=5432
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = {users}
admin_users = {role}
; fewer than the processes would open, so that they take turns
default_pool_size = 4
max_client_conn = 200
server_login_retry = 1
"""


class PgBouncer(RunningServer):
    """A pooler with four connections to each database; its address stays the same."""

    def __init__(self, postgres: Postgres, directory: Path) -> None:
        self._port = reserve_port()
        self._password = postgres.password
        users, settings = directory / "users", directory / "pgbouncer.ini"
        users.write_text(f'"{ROLE}" "{postgres.password}"\n')
        settings.write_text(
            _CONFIGURATION.format(
                sockets=postgres.sockets, host=LOOPBACK, port=self._port, users=users, role=ROLE
            )
        )
        give_directory(directory, postgres.user)
        spec = ProcessSpec(
            name="pgbouncer",
            argv=(packaged_program("pgbouncer", "pgbouncer"), str(settings)),
            env=ENVIRONMENT,
            cwd=directory,
            become=postgres.user,  # it refuses to run as root
            ready=self._fault,
            stop_signal=signal.SIGINT,
        )
        super().__init__(spec, directory.with_suffix(".log"))

    def url(self, database: str) -> str:
        """Return the URL of a database through the pooler."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self._port}/{database}"

    def connect_anew(self) -> None:
        """Close the connections to the server as soon as they are free."""
        with psycopg.connect(self.url("pgbouncer"), autocommit=True) as console:
            console.execute("RECONNECT", prepare=False)

    def _fault(self) -> str | None:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.Error as error:
            return str(error)
        return None


@contextmanager
def running_pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """Run a pooler in a temporary directory, and remove both at the end."""
    with temporary_directory() as directory:
        place = directory / "pgbouncer"
        place.mkdir()
        pooler = PgBouncer(server.postgres, place)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.kill()
