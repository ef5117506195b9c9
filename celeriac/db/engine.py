"""The database engine: connections, transactions, errors by SQLSTATE, server settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy import Connection as Connection  # noqa: PLC0414 - exported for services
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from celeriac.domain.errors import DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError
from celeriac.kit.json_types import dumps, loads
from celeriac.kit.outbound import psycopg_url, without_password
from celeriac.kit.threads import Threads

LOCK_SECONDS = 10.0
STATEMENT_SECONDS = 60.0
UNACKNOWLEDGED_SECONDS = 25.0
_POOL_SECONDS = 30

_UNAVAILABLE = (
    "08",  # connection exceptions
    "53",  # insufficient resources: disk full, out of memory, too many connections
    "57P0",  # shut down, crashed, starting, database dropped
    "25006",  # read-only: a standby, or a primary that was demoted
)
_BUSY = (
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock not available: the lock time-out
)
_TIMEOUT = "57014"  # query cancelled: the statement time-out, or an operator
_READ_ONLY = "25006"
_DISK_FULL = "53100"
_REFUSED = (
    "22",  # data exceptions
    "23",  # constraint violations
    "54",  # limits of the server: a row or a value that is too large
)


class Database:
    """A pool of connections to one database.

    Create it after a fork, never before. Errors are classified by SQLSTATE
    (docs/adr/0016-errors-by-sqlstate.md): DatabaseUnavailableError if the server can't be reached
    or can't write, DatabaseBusyError for lock time-outs, deadlocks and serialization failures,
    DatabaseTimeoutError for a statement that took too long. After any of them the unit of work was
    rolled back, or its answer was lost. Any other error is a bug and is raised unchanged.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        application: str = "celeriac",
        lock_seconds: float = LOCK_SECONDS,
        statement_seconds: float = STATEMENT_SECONDS,
        unacknowledged_seconds: float = UNACKNOWLEDGED_SECONDS,
    ) -> None:
        """Prepare a pool of at most `connections`; none is opened yet.

        A statement waits at most `lock_seconds` for a lock and takes at most `statement_seconds`.
        A connection is closed if sent data isn't acknowledged for `unacknowledged_seconds`.
        """
        self.address = without_password(url)
        self.engine: Engine = create_engine(
            psycopg_url(url),
            # most units of work are one statement and need no transaction block
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=connections,
            max_overflow=0,
            # errors are logged and stored: they must not contain the parameters
            hide_parameters=True,
            pool_timeout=_POOL_SECONDS,
            json_serializer=dumps,
            json_deserializer=loads,
            connect_args={
                "application_name": application,
                "connect_timeout": 5,
                "options": _options(lock_seconds, statement_seconds),
                # A server that disappears is detected within 30 s: by keepalive probes on an idle
                # connection, by the missing acknowledgement of sent data otherwise.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": round(unacknowledged_seconds * 1000),
            },
        )
        event.listen(self.engine, "handle_error", _leave_read_only_server)
        event.listen(self.engine, "handle_error", self._note_full_disk)
        self._disk_full_at: float | None = None
        self.threads = Threads("database", connections)
        """For coroutines that use the database: as many threads as connections."""
        self._transactional = self.engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error."""
        with _translated(self.address), self._transactional.begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Yield a connection in autocommit mode: each statement is its own transaction.

        For units of work of one statement: saves the round trips of BEGIN and COMMIT.
        """
        with _translated(self.address), self.engine.connect() as connection:
            yield connection

    def disk_full_within(self, seconds: float) -> bool:
        """Whether a statement of this process failed on the server's full disk within `seconds`."""
        met = self._disk_full_at
        return met is not None and time.monotonic() - met < seconds

    def _note_full_disk(self, context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == _DISK_FULL:
            self._disk_full_at = time.monotonic()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they are returned."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


def refuses(error: Exception) -> bool:
    """Whether the database will never accept the data that `error` was raised for.

    True if the server rejects a value, or a value can't be encoded. Every other error may be
    temporary: a missing privilege, a running migration, a disk error, a lack of memory.
    """
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(_REFUSED)
    cause = error.orig if isinstance(error, StatementError) else error
    return isinstance(cause, (TypeError, ValueError, OverflowError, psycopg.DataError))


def first_line(error: Exception) -> str:
    """Return the first line of a database error, without the statement and its values."""
    cause = getattr(error, "orig", error)
    lines = str(cause).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(cause).__name__


def _options(lock_seconds: float, statement_seconds: float) -> str:
    options = {
        "timezone": "UTC",
        "lock_timeout": round(lock_seconds * 1000),
        "statement_timeout": round(statement_seconds * 1000),
        # Plans are cached. One made for a small table must not scan the table when it is large.
        "enable_seqscan": "off",
    }
    return " ".join(f"-c {name}={value}" for name, value in options.items())


def _leave_read_only_server(context: ExceptionContext) -> None:
    """Close the pool's connections to a server that has become read-only.

    With several hosts and `target_session_attrs=read-write` in the address, new connections reach
    the new primary.
    """
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError(
            f"All connections of this process to PostgreSQL at {address} have been in use for "
            f"{_POOL_SECONDS} s."
        ) from error
    except DBAPIError as error:
        known = _known(error, address)
        if known is None:
            raise
        raise known from error


def _known(error: DBAPIError, address: str) -> DatabaseUnavailableError | None:
    """Return the error that a driver error is translated to; None for a bug."""
    state = _sqlstate(error)
    reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
    if state is None:
        if error.connection_invalidated or isinstance(error, OperationalError):
            return DatabaseUnavailableError(f"PostgreSQL at {address} doesn't answer: {reason}")
        return None
    if state in _BUSY:
        return DatabaseBusyError(f"PostgreSQL at {address} is busy: {reason}", sqlstate=state)
    if state == _TIMEOUT:
        return DatabaseTimeoutError(
            f"PostgreSQL at {address} took too long: {reason}", sqlstate=state
        )
    if state.startswith(_UNAVAILABLE) or error.connection_invalidated:
        return DatabaseUnavailableError(
            f"PostgreSQL at {address} can't do it now: {reason}", sqlstate=state
        )
    return None


def _sqlstate(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", error), "sqlstate", None)


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """The server's version, current time, and connections in use and allowed."""

    version: str
    number: int
    """`server_version_num`: 180006 for 18.6."""
    now: datetime
    connections: int
    max_connections: int


def describe(connection: Connection) -> DatabaseServer:
    """Return the server's version, clock and connections."""
    row = connection.execute(
        text(
            "SELECT current_setting('server_version'), "
            "current_setting('server_version_num')::int, clock_timestamp(), "
            "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
            "current_setting('max_connections')::int"
        )
    ).one()
    return DatabaseServer(*row)


def read_only(connection: Connection) -> bool:
    """Whether the server refuses writes: a standby, or a demoted primary."""
    shown = connection.execute(text("SHOW transaction_read_only")).scalar_one()
    return bool(shown == "on")


def clock(connection: Connection) -> datetime:
    """Return the server's current time."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
