"""Databases that can't be written to, or whose rows others hold."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import URL, Connection, make_url

from celeriac.db.engine import Database


def driver_url(url: URL | str) -> str:
    """Return a SQLAlchemy URL as psycopg reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def read_only(url: URL | str) -> Iterator[None]:
    """Make a database read-only in the block, as a demoted primary is; all connections are cut."""
    switch(url, read_only=True)
    try:
        yield
    finally:
        switch(url, read_only=False)


def switch(url: URL | str, *, read_only: bool) -> None:
    """Make a database read-only, or writable again, and cut all connections to it."""
    value = "on" if read_only else "off"
    with psycopg.connect(driver_url(url), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = connection.info.dbname
        change = f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'
        connection.execute(change.encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@contextmanager
def holding(url: URL | str, query: str) -> Iterator[None]:
    """Keep a transaction open in the block that has executed `query`, as an operator might."""
    with psycopg.connect(driver_url(url)) as connection:
        connection.execute(query.encode())
        yield
        connection.rollback()


class HeldDatabase(Database):
    """The database of another `Database`; a test can do something while a transaction begins."""

    def __init__(self, original: Database) -> None:
        super().__init__(original.engine.url.render_as_string(hide_password=False), connections=2)
        self.on_begin: Callable[[], None] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            if self.on_begin is not None:
                self.on_begin()
            yield connection
