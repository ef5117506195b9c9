"""Connections to PostgreSQL and the units of work on them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.jsontypes import dumps, loads
from celeriac.kit.threads import Threads
from celeriac.kit.urls import psycopg_url, without_password

_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "lock_timeout": 10_000,
        "statement_timeout": 60_000,
        # Plans are kept. One made while a table was small must not read the whole of it later.
        "enable_seqscan": "off",
    }.items()
)


class Database:
    """A pool of connections to one database.

    Made by the wiring, after a fork and never before it. Every failure to reach the server comes
    out as DatabaseUnavailableError.
    """

    def __init__(self, url: str, *, connections: int, application: str = "celeriac") -> None:
        """Prepare a pool of at most `connections`; nothing is opened yet."""
        self.address = without_password(url)
        self.engine: Engine = create_engine(
            psycopg_url(url),
            # most units of work are one statement: for them connections are right as they are
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=30,
            json_serializer=dumps,
            json_deserializer=loads,
            connect_args={
                "application_name": application,
                "connect_timeout": 5,
                "options": _OPTIONS,
                # a server that vanished without a word is noticed within half a minute
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self.threads = Threads("database", connections)
        """For coroutines that read or write: as many threads as there are connections."""
        self._transactional = self.engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error."""
        with _translated(self.address), self._transactional.begin() as connection:
            yield connection

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """Yield a connection on which each statement is a transaction of its own.

        For units of work that are one statement: it saves the round trips of BEGIN and COMMIT.
        """
        with _translated(self.address), self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise DatabaseUnavailableError(
            f"PostgreSQL at {address} doesn't answer: {reason}"
        ) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailableError(f"PostgreSQL at {address} went away.") from error
