"""Fixtures of all kinds of tests that need servers: one PostgreSQL for the whole session."""

from collections.abc import Iterator

import pytest

from celeriac.db import migrate
from tests.support.database_pool import DatabasePool
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres, running_valkey


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A running Valkey."""
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> str:
    """The name of a database with our tables, to be copied and never written."""
    return migrated_database(postgres_server)


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer, migrated: str) -> DatabasePool:
    """Databases with our tables and no rows, for a test each."""
    return DatabasePool(postgres_server, migrated)


def migrated_database(server: PostgresServer) -> str:
    """Make a database with our tables on `server` and return its name."""
    name = server.fresh_database()
    migrate.upgrade(server.url(name))
    return name
