"""The database engine: connections, transactions, errors by SQLSTATE, server settings."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection as Connection  # noqa: PLC0414 - exported for services
from sqlalchemy import Engine, TextClause, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from celeriac.db.connections import CONNECT_SECONDS, Connecting, answer_seconds
from celeriac.db.plans import MADE_FOR_VALUES, keep_plans
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
_UNSUPPORTED = "0A000"  # also: a prepared statement would return other types than before
_REFUSED = (
    "22",  # data exceptions
    "23",  # constraint violations
    "54",  # limits of the server: a row or a value that is too large
)


@dataclass(frozen=True, slots=True)
class Pooler:
    """A pooler in transaction mode, such as PgBouncer, between the processes and the server.

    Each transaction may run on another connection of the server, so sessions have no state. A
    pooler refuses or drops startup options: the role has the settings (`role_faults`).
    """

    prepares: bool = False
    """Whether it tracks prepared statements: PgBouncer from 1.22 with max_prepared_statements."""


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
        pooler: Pooler | None = None,
        own_limits: bool = False,
    ) -> None:
        """Prepare a pool of at most `connections`; none is opened yet.

        A statement waits at most `lock_seconds` for a lock and takes at most `statement_seconds`.
        Behind a `pooler` the limits of the role apply instead. With `own_limits` these apply there
        too, which costs each unit of work the round trips of a transaction and one more.
        A connection is closed if sent data isn't acknowledged for `unacknowledged_seconds`, or an
        answer has not come within `answer_seconds(statement_seconds)`, whoever sets the limits.
        """
        self.address = without_password(url)
        limits = {"lock_timeout": lock_seconds, "statement_timeout": statement_seconds}
        self._set_limits = _local(limits) if pooler and own_limits else None
        self.engine: Engine = create_engine(
            psycopg_url(url),
            # most units of work are one statement and need no transaction block
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=connections,
            max_overflow=0,
            # the connection that was used last: it has the plans, and mostly the right mode
            pool_use_lifo=True,
            # errors are logged and stored: they must not contain the parameters
            hide_parameters=True,
            pool_timeout=_POOL_SECONDS,
            json_serializer=dumps,
            json_deserializer=loads,
            connect_args={
                "application_name": application,
                "connect_timeout": CONNECT_SECONDS,
                "prepare_threshold": _PREPARE_AFTER,
                **(_pooled(pooler) if pooler else {"options": _options(limits)}),
                # A host that disappears is detected within 30 s: by keepalive probes on an idle
                # connection, by the missing acknowledgement of sent data otherwise.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": round(unacknowledged_seconds * 1000),
            },
        )
        connecting = Connecting(answer_seconds(statement_seconds))
        event.listen(self.engine, "do_connect", connecting)
        event.listen(self.engine, "handle_error", _leave_connection)
        event.listen(self.engine, "handle_error", self._note_full_disk)
        if pooler is None:  # behind one, sessions have no state
            keep_plans(self.engine)
        self._disk_full_at: float | None = None
        self.threads = Threads("database", connections)
        """For coroutines that use the database: as many threads as connections."""
        self._transactional = self.engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error."""
        with _translated(self.address), self._transactional.begin() as connection:
            if self._set_limits is not None:
                connection.execute(self._set_limits)
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Yield a connection in autocommit mode: each statement is its own transaction.

        For units of work of one statement: saves the round trips of BEGIN and COMMIT.
        """
        if self._set_limits is not None:
            with self.transaction() as connection:
                yield connection
            return
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


_PREPARE_AFTER = 1
"""A statement is prepared when it comes again: then it is parsed once."""

_SESSION = {
    "timezone": "UTC",
    # Plans are cached. One made for a small table must not scan the table when it is large.
    "enable_seqscan": "off",
    # A plan for all values may crash PostgreSQL 18 (docs/adr/0052); see `celeriac.db.plans`.
    "plan_cache_mode": MADE_FOR_VALUES,
}
"""Settings of every session, besides its limits."""


def _options(limits: Mapping[str, float]) -> str:
    options = _SESSION | {name: f"{round(value * 1000)}" for name, value in limits.items()}
    return " ".join(f"-c {name}={value}" for name, value in options.items())


def _pooled(pooler: Pooler) -> dict[str, Any]:
    """Return the arguments of a connection through a pooler.

    Older versions of libpq close prepared statements with SQL, which poolers don't understand.
    """
    if pooler.prepares and psycopg.capabilities.has_send_close_prepared():
        return {}
    return {"prepare_threshold": None}


def _local(limits: Mapping[str, float]) -> TextClause:
    """Return a statement that sets limits for its transaction."""
    parts = (
        f"set_config('{name}', '{value * 1000:.0f}ms', true)" for name, value in limits.items()
    )
    return text(f"SELECT {', '.join(parts)}")


def _leave_connection(context: ExceptionContext) -> None:
    """Close the pool's connections to a read-only server, and to one whose columns have changed.

    With several hosts and `target_session_attrs=read-write` in the address, new connections reach
    the new primary. A statement that was prepared before the type of a column was changed fails
    for ever on its connection.
    """
    error = context.original_exception
    state = getattr(error, "sqlstate", None)
    if state == _READ_ONLY or (state == _UNSUPPORTED and "cached plan" in str(error)):
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


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings that hold in a session; limits in seconds, 0 for none."""

    role: str
    database: str
    timezone: str
    seqscan: bool
    plan_cache_mode: str
    lock_seconds: float
    statement_seconds: float

    def role_faults(self, lock_seconds: float) -> dict[str, str]:
        """Return the settings that are wrong, each with its right value.

        Statements must wait at most `lock_seconds` for a lock.
        """
        mode = _SESSION["plan_cache_mode"]
        right = {
            "timezone": (self.timezone in _UTC, _SESSION["timezone"]),
            "enable_seqscan": (not self.seqscan, _SESSION["enable_seqscan"]),
            "plan_cache_mode": (self.plan_cache_mode == mode, mode),
            "lock_timeout": (0 < self.lock_seconds <= lock_seconds, f"{lock_seconds * 1000:.0f}ms"),
            "statement_timeout": (
                0 < self.statement_seconds <= STATEMENT_SECONDS,
                f"{STATEMENT_SECONDS:.0f}s",
            ),
        }
        return {name: value for name, (is_right, value) in right.items() if not is_right}

    def cure(self, faults: Mapping[str, str]) -> str:
        """Return the statements that set `faults` right for the role, in this database."""
        where = f"ALTER ROLE {_quoted(self.role)} IN DATABASE {_quoted(self.database)}"
        return " ".join(f"{where} SET {name} = '{value}';" for name, value in faults.items())


_UTC = ("UTC", "Etc/UTC")


def session_settings(connection: Connection) -> SessionSettings:
    """Return the settings of the session, which behind a pooler are those of the role."""
    row = connection.execute(_SETTINGS).one()
    return SessionSettings(*row)


_SETTINGS = text("""
SELECT current_user, current_database(), current_setting('TimeZone'),
       current_setting('enable_seqscan')::boolean, current_setting('plan_cache_mode'),
       (SELECT setting::float / 1000 FROM pg_settings WHERE name = 'lock_timeout'),
       (SELECT setting::float / 1000 FROM pg_settings WHERE name = 'statement_timeout')
""")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_only(connection: Connection) -> bool:
    """Whether the server refuses writes: a standby, or a demoted primary."""
    shown = connection.execute(text("SHOW transaction_read_only")).scalar_one()
    return bool(shown == "on")


def clock(connection: Connection) -> datetime:
    """Return the server's current time."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
