"""Real servers, one of each for the whole session."""

from collections.abc import Iterator

import pytest

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
