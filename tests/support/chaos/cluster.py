"""A PostgreSQL whose primary can be killed, frozen, and replaced by a standby."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from celeriac.db import server
from celeriac.db.engine import Database, Pooler
from celeriac.embedded.home import Home, RuntimeDirectory
from celeriac.embedded.postgres import DATABASE, ENVIRONMENT, ROLE, Postgres
from celeriac.embedded.process import ProcessSpec, run_to_end
from celeriac.embedded.service_user import give_directory
from tests.support.chaos.plan import LEASE_SECONDS
from tests.support.chaos.processes import children_of, signal_all, title_of
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.servers import RunningServer
from tests.support.waiting import wait_until

_PORT = 5432
_SOCKET = f".s.PGSQL.{_PORT}"
_POOL = 20
"""Connections of the pooler: its default, and fewer than the processes would open."""
_LOCK_SECONDS = LEASE_SECONDS / 8
"""As `wiring.core.worker_lock_seconds` has it, and doctor says."""
_SETTLE_SECONDS = 1.0
_CONNECT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby that has all that was answered; read-only until it is promoted."""

    socket: Path
    promote: Callable[[], None]
    """Makes it the primary; the old one must be gone, or be unreachable for good."""


class Cluster:
    """A primary and, for as long as it takes to promote it, a synchronous standby."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._homes = 0
        self._postgres = Postgres.prepare(self._home(), fast_unsafe=True)
        self._log = directory / "postgres.log"
        self._server = RunningServer(self._postgres.spec(), self._log)
        self._retired: list[RunningServer] = []

    @property
    def socket(self) -> Path:
        """Where the primary serves."""
        return self._postgres.sockets / _SOCKET

    @property
    def url(self) -> str:
        """The URL of the primary, past every proxy."""
        return self._postgres.url()

    def proxied_url(self, port: int) -> str:
        """Return the URL of a proxy on the loopback that leads to the primary."""
        return (
            f"postgresql+psycopg://{ROLE}:{self._postgres.password}@127.0.0.1:{port}/{DATABASE}"
            "?sslmode=disable&gssencmode=disable"
        )

    def behind_pooler(self, port: int) -> AbstractContextManager[PgBouncer]:
        """Run a pooler that leads to a proxy on the loopback."""
        server = f"host=127.0.0.1 port={port}"
        return running_pgbouncer(self._postgres, server=server, connections=_POOL)

    def pooled_url(self, pooler: PgBouncer) -> str:
        """Return the URL of the database through a pooler; the role gets what it needs there."""
        url = pooler.url(DATABASE)
        with (
            closing(Database(url, connections=1, pooler=Pooler())) as database,
            database.autocommit() as connection,
        ):
            session = server.session_settings(connection)
        self._ask(session.cure(session.role_faults(_LOCK_SECONDS)))
        pooler.connect_anew()
        return url

    def start(self) -> None:
        """Start the primary; its data are those of its last run."""
        self._server.start()

    def kill(self) -> None:
        """End the primary and all its processes (SIGKILL)."""
        self._server.kill()

    def kill_backend(self, chosen: random.Random) -> None:
        """Kill one process that serves a client: the server then recovers as after a crash."""
        backends = [
            each for each in self._processes() if title_of(each).startswith(f"postgres: {ROLE} ")
        ]
        if backends:
            signal_all([chosen.choice(backends)], signal.SIGKILL)

    def freeze(self) -> None:
        """Stop all processes of the primary (SIGSTOP)."""
        signal_all(self._processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on (SIGCONT)."""
        signal_all(self._processes(), signal.SIGCONT)

    def make_standby(self) -> "Standby":
        """Run a synchronous standby: no commit that waits is answered before it has it."""
        standby = self._copy()
        running = RunningServer(standby.spec(), self._log)
        running.start()
        self._wait_for("state = 'streaming'", "the standby streams")
        self._ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._ask("SELECT pg_reload_conf()")
        self._wait_for("sync_state = 'sync'", "the standby is synchronous")
        time.sleep(_SETTLE_SECONDS)  # until every process of the server has read the setting
        written = self._ask("SELECT pg_current_wal_flush_lsn()")
        self._wait_for(f"flush_lsn >= '{written}'", "the standby has all that was answered")

        def promote() -> None:
            self._retired.append(self._server)
            self._postgres, self._server = standby, running
            assert self._ask("SELECT pg_promote(true, 30)"), "the standby was not promoted"

        return Standby(standby.sockets / _SOCKET, promote)

    def lock_rows(self, tables: Sequence[str]) -> Callable[[], None]:
        """Lock all rows of some tables, as a forgotten transaction does; return what ends it."""
        connection = self._connect()
        connection.autocommit = False
        for table in tables:
            connection.execute(f"SELECT FROM {table} FOR UPDATE".encode())
        return connection.close

    def retire(self) -> None:
        """Kill the primaries that were replaced and still run."""
        for each in self._retired:
            if each.exit_code is None:
                each.kill()

    def close(self) -> None:
        """Kill everything."""
        self.retire()
        self._server.kill()

    def _home(self) -> Home:
        self._homes += 1
        return Home.open(self._directory / f"pg{self._homes}")

    def _copy(self) -> Postgres:
        primary = self._postgres
        home = self._home()
        give_directory(home.postgres, primary.user)
        spec = ProcessSpec(
            name="pg_basebackup",
            argv=(
                str(primary.programs / "pg_basebackup"),
                "--dbname",
                f"host={primary.sockets} port={_PORT} user={ROLE} application_name=standby",
                "--pgdata",
                str(home.postgres),
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--no-password",
            ),
            env={**ENVIRONMENT, "PGPASSWORD": primary.password},
            cwd=home.postgres,
            become=primary.user,
        )
        run_to_end(spec, self._log)
        sockets = RuntimeDirectory(home, primary.user).prepare()
        settings = {**primary.settings, "unix_socket_directories": str(sockets)}
        return replace(primary, data=home.postgres, sockets=sockets, settings=settings)

    def _processes(self) -> list[psutil.Process]:
        leader = self._server.pid
        return [psutil.Process(leader), *children_of(leader, recursive=True)]

    def _wait_for(self, condition: str, what: str) -> None:
        query = f"SELECT count(*) FROM pg_stat_replication WHERE {condition}"
        wait_until(lambda: self._ask(query), what, within=30)

    def _ask(self, statement: str) -> Any:
        with self._connect() as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return row and row[0]

    def _connect(self) -> psycopg.Connection[Any]:
        """Connect, also to a server that is still recovering from the fault before."""
        connect = retry(
            retry=retry_if_exception_type(psycopg.OperationalError),
            stop=stop_after_delay(_CONNECT_SECONDS),
            wait=wait_fixed(0.1),
            reraise=True,
        )(psycopg.connect)
        return connect(
            host=str(self._postgres.sockets),
            port=_PORT,
            user=ROLE,
            password=self._postgres.password,
            dbname=DATABASE,
            connect_timeout=10,
            autocommit=True,
            options="-c lock_timeout=0 -c statement_timeout=0",  # for a pooler the role has limits
        )
