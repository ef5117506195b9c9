"""A real PostgreSQL and a real Valkey for a test session, started as the product starts them."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest
import redis

from celeriac.embedded.home import Home
from celeriac.embedded.postgres import ENVIRONMENT, Postgres
from celeriac.embedded.process import ManagedProcess, ProcessSpec, run_to_end
from celeriac.embedded.service_user import give_directory
from celeriac.embedded.valkey import Valkey
from tests.support.places import temporary_directory
from tests.support.processes import start_and_wait
from tests.support.waiting import wait_until

MAINTENANCE_DATABASE = "postgres"


def packaged_program(name: str, package: str) -> str:
    """Return the path of a server's program that Debian packages; skip the test without it."""
    found = shutil.which(name, path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


class RunningServer:
    """A server process that a test may kill and start again; its address stays the same."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self._process = ManagedProcess(spec, log)
        self.log = log

    @property
    def pid(self) -> int:
        """Its pid; a test fails here if it doesn't run."""
        assert self._process.pid is not None, f"{self._process.spec.name} isn't running: {self.log}"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: the signal); None while it runs."""
        return self._process.exit_code

    def start(self) -> None:
        """Start it and wait until it serves."""
        start_and_wait(self._process)

    def stop(self) -> None:
        """Stop it cleanly."""
        self._process.stop()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._process.kill()

    def freeze(self) -> None:
        """Stop it where it stands (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)


class PostgresServer(RunningServer):
    """PostgreSQL without fsync, with a database for each test that asks."""

    def __init__(self, home: Home) -> None:
        self._postgres = Postgres.prepare(home, fast_unsafe=True)
        super().__init__(self._postgres.spec(), home.log_file("postgres"))

    @property
    def postgres(self) -> Postgres:
        """What runs: its socket, password and user."""
        return self._postgres

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return self._postgres.url(database)

    def url_with(self, standby: "PostgresServer", database: str) -> str:
        """Return the URL of a database on whichever of two servers can be written to."""
        hosts = f"host={self._postgres.sockets},{standby._postgres.sockets}&port=5432,5432"
        address = self.url(database).split("?")[0]
        return f"{address}?{hosts}&target_session_attrs=read-write"

    def freeze(self) -> None:
        """Stop the server with all its sessions, which are processes of their own (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all of them go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        server = psutil.Process(self.pid)
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def copy_to(self, home: Home) -> None:
        """Make a standby of this server in `home`, which follows it once it is started."""
        postgres = self._postgres
        (home.secrets / "postgres").write_text(postgres.password)
        give_directory(home.postgres, postgres.user)
        spec = ProcessSpec(
            name="pg_basebackup",
            argv=(
                str(postgres.programs / "pg_basebackup"),
                f"--pgdata={home.postgres}",
                f"--dbname=host={postgres.sockets} user=celeriac password={postgres.password}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ),
            env=ENVIRONMENT,
            cwd=home.postgres,
            become=postgres.user,
        )
        run_to_end(spec, home.log_file("pg_basebackup"))

    def follows(self, position: str) -> bool:
        """Whether this standby has carried out all that is before `position` of the log."""
        query = f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
        return bool(self._maintain(query))

    def position(self) -> str:
        """Return how far the log of this primary goes."""
        return str(self._maintain("SELECT pg_current_wal_lsn()"))

    def wait_for_standby(self) -> None:
        """Let a commit wait until it is on the standby of this primary, from now on."""
        self._maintain("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._maintain("SELECT pg_reload_conf()")
        synchronous = "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state <> 'async'"
        wait_until(lambda: bool(self._maintain(synchronous)), "the standby is synchronous")

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        assert self._maintain("SELECT pg_promote()")

    def fresh_database(self, template: str = "template0") -> str:
        """Create a database as a copy of `template`, which nobody may be using; return its name."""
        name = f"test_{uuid4().hex}"
        self._maintain(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, cutting off whoever is still connected to it."""
        self._maintain(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _maintain(self, statement: str) -> Any:
        url = self.url(MAINTENANCE_DATABASE).replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


class ValkeyServer(RunningServer):
    """Valkey as the product runs it: append-only file, password, loopback port."""

    def __init__(self, home: Home) -> None:
        self._valkey = Valkey.prepare(home)
        super().__init__(self._valkey.spec(), home.log_file("valkey"))

    @property
    def program(self) -> Path:
        """The server's program."""
        return self._valkey.program

    def url(self, database: int = 0) -> str:
        """Return the URL of a numbered database."""
        return self._valkey.url(database)

    def flush(self) -> None:
        """Empty all its databases."""
        with redis.Redis.from_url(self.url()) as client:
            client.flushall()


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL in a temporary home, and remove both at the end."""
    with temporary_directory() as directory:
        server = PostgresServer(Home.open(directory))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    """Run a standby that follows `primary`, in a temporary home."""
    with temporary_directory() as directory:
        home = Home.open(directory)
        primary.copy_to(home)
        server = PostgresServer(home)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """Run a Valkey in a temporary home, and remove both at the end."""
    with temporary_directory() as directory:
        server = ValkeyServer(Home.open(directory))
        try:
            server.start()
            yield server
        finally:
            server.kill()
