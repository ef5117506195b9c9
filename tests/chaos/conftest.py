"""A fleet for each test, on a database and a Valkey of its own."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, running_fleet
from tests.support.fleet_reports import FLEET
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer, running_valkey


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill, freeze and flush."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def servers(valkey: ValkeyServer) -> dict[str, str]:
    """The servers of the fleet besides PostgreSQL; modules may have others."""
    return {"redis_url": valkey.url()}


@pytest.fixture
def fleet(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    migrated: str,
    servers: dict[str, str],
) -> Iterator[Fleet]:
    """A fleet without processes yet."""
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as home:
        url = postgres_server.url(database)
        with running_fleet(home, database_url=url, **servers) as made:
            request.node.stash[FLEET] = made
            yield made
    postgres_server.drop_database(database)
