"""One fleet for all of these tests: a keeper, and two workers of eight threads."""

from collections.abc import Generator, Iterator

import pytest

from tests.support.fleet import UNHURRIED, Fleet, running_fleet
from tests.support.fleet_workflows import FleetWorkflows
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, running_valkey

_FLEET = pytest.StashKey[Fleet]()


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
    request.node.stash[_FLEET] = package_flows.fleet
    return package_flows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes wrote where a test failed."""
    report = yield
    fleet = item.stash.get(_FLEET, None)
    if call.when == "call" and call.excinfo is not None and fleet is not None:
        report.sections.extend((f"output of {name}", text) for name, text in fleet.report())
    return report
