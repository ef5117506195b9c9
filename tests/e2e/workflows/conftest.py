"""One fleet for all of these tests: a keeper, and two workers of eight threads."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import UNHURRIED, running_fleet
from tests.support.fleet_reports import FLEET
from tests.support.fleet_workflows import FleetWorkflows
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, running_valkey


@pytest.fixture(scope="package")
def package_flows(postgres_server: PostgresServer, migrated: str) -> Iterator[FleetWorkflows]:
    """The fleet, with its programs."""
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as home, running_valkey() as valkey:
        url = postgres_server.url(database)
        with running_fleet(home, database_url=url, redis_url=valkey.url()) as fleet:
            fleet.beat(**UNHURRIED)
            for name in ("w1", "w2"):
                fleet.lasting_worker(name)
            yield FleetWorkflows(fleet)
    postgres_server.drop_database(database)


@pytest.fixture
def flows(request: pytest.FixtureRequest, package_flows: FleetWorkflows) -> FleetWorkflows:
    """The fleet, known to the test's report."""
    request.node.stash[FLEET] = package_flows.fleet
    return package_flows
