"""The database engine: connections, their waits, transactions, errors by SQLSTATE.

A frozen server keeps no limit of its own, and its kernel acknowledges what it is sent: so answers
are waited for a bounded time (docs/adr/0075-bounded-waits-for-servers.md).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection as Connection  # noqa: PLC0414 - exported for services
from sqlalchemy import Engine, TextClause, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from celeriac.db import conversions
from celeriac.db.plans import MADE_FOR_VALUES, keep_plans
from celeriac.domain.errors import DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError
from celeriac.kit.json_types import dumps, loads
from celeriac.kit.outbound import psycopg_url, without_password
from celeriac.kit.threads import Threads

LOCK_SECONDS = 10.0
STATEMENT_SECONDS = 60.0
UNACKNOWLEDGED_SECONDS = 25.0
_POOL_SECONDS = 30
CONNECT_SECONDS = 5
"""How long each server of an address may take to accept a connection."""

_MARGIN_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_INTERVAL_SECONDS = 0.1

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


def answer_seconds(statement_seconds: float) -> float | None:
    """Return how long to wait for the answer to a statement; None for one without a limit.

    Longer than the server's own limit, so that a server that lives ends the statement itself and
    says so. At most twice as long, so that short limits stay short.
    """
    if not statement_seconds:
        return None
    return statement_seconds + min(_MARGIN_SECONDS, statement_seconds)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if an answer does not come in time."""

    answer_seconds: float | None = None
    on_late: Callable[[], None] | None = None
    """Called when an answer has not come in time."""

    def wait(
        self,
        gen: PQGen[RV],
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,
    ) -> RV:
        """Wait as psycopg does, for at most `answer_seconds`.

        Raises psycopg.OperationalError when the time is up. Whether the statement was executed, or
        will be, is then not known.
        """
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            # nobody reads the answer any more, so nothing else can be asked on this connection
            self.pgconn.finish()
            if self.on_late is not None:
                self.on_late()
            raise psycopg.OperationalError(
                f"it has not answered within {self.answer_seconds:g} s"
            ) from error


class Connecting:
    """Opens the connections of a pool. Safe to share between threads.

    A hundred requests that wait for ten connections must not take turns in waiting for a server
    that does not answer. So when an answer has not come, one caller tries a connection, and the
    others wait for what it finds. While the server accepts none, one at a time tries, with a pause
    after each try, and the others are refused at once.
    """

    def __init__(self, answer_seconds: float | None) -> None:
        self._answer_seconds = answer_seconds
        self._changed = threading.Condition()
        self._doubtful = False
        """Whether an answer has not come, and no connection was opened since."""
        self._late: str | None = None
        """Why the last connection was given up after CONNECT_SECONDS; None if it was not."""
        self._pause_ends = 0.0
        self._trying = False

    def __call__(
        self, _dialect: object, _record: object, args: tuple[Any, ...], options: dict[str, Any]
    ) -> BoundedConnection:
        """Return a new connection; for SQLAlchemy's event `do_connect`.

        Raises psycopg.OperationalError.
        """
        with self._turn():
            try:
                connection = BoundedConnection.connect(*args, **options)
            except psycopg.errors.ConnectionTimeout:
                self._pause_ends = time.monotonic() + _PAUSE_SECONDS
                self._late = f"it has accepted no connection within {CONNECT_SECONDS} s"
                raise
            except psycopg.Error:
                self._late, self._doubtful = None, False
                raise
            self._late, self._doubtful = None, False
        connection.answer_seconds = self._answer_seconds
        connection.on_late = self._doubt
        return connection

    def _doubt(self) -> None:
        self._doubtful = True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until the caller may try; raise psycopg.OperationalError if it may not."""
        with self._changed:
            waited = self._trying
            self._changed.wait_for(lambda: self._late is not None or not self._trying)
            if self._late is not None and (waited or time.monotonic() < self._pause_ends):
                raise psycopg.OperationalError(self._late)
            alone = self._late is not None or self._doubtful
            self._trying = self._trying or alone
        try:
            yield
        finally:
            if alone:
                with self._changed:
                    self._trying = False
                    self._changed.notify_all()


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
        answer has not come within `answer_seconds(statement_seconds)`, also behind a pooler.
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
        conversions.remember()
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

SESSION = {
    "timezone": "UTC",
    # Plans are cached. One made for a small table must not scan the table when it is large.
    "enable_seqscan": "off",
    # A plan for all values may crash PostgreSQL 18 (docs/adr/0052); see `celeriac.db.plans`.
    "plan_cache_mode": MADE_FOR_VALUES,
}
"""Settings of every session, besides its limits."""


def _options(limits: Mapping[str, float]) -> str:
    options = SESSION | {name: f"{round(value * 1000)}" for name, value in limits.items()}
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


def read_only(connection: Connection) -> bool:
    """Whether the server refuses writes: a standby, or a demoted primary."""
    shown = connection.execute(text("SHOW transaction_read_only")).scalar_one()
    return bool(shown == "on")


def clock(connection: Connection) -> datetime:
    """Return the server's current time."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
