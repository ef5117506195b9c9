"""One fleet for all of these tests: a worker of every queue, beat, and a user's own tasks."""

from collections.abc import Generator, Iterator

import httpx
import pytest

from celeriac.services.accounts import Accounts
from tests.support import plain_tasks
from tests.support.fleet import SECRET_KEY, Fleet, running_fleet
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import PostgresServer, ValkeyServer, running_valkey

_FLEET = pytest.StashKey[Fleet]()
OWN_TASKS = ("-I", plain_tasks.MODULE)


@pytest.fixture(scope="package")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey of our own: the session's is flushed by others."""
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="package")
def package_fleet(
    postgres_server: PostgresServer, migrated: str, valkey: ValkeyServer
) -> Iterator[Fleet]:
    """A fleet without processes."""
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as home:
        url = postgres_server.url(database)
        with running_fleet(home, database_url=url, redis_url=valkey.url()) as made:
            yield made
    postgres_server.drop_database(database)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, package_fleet: Fleet) -> Fleet:
    """The fleet, known to the test's report."""
    request.node.stash[_FLEET] = package_fleet
    return package_fleet


@pytest.fixture(scope="package")
def beat(package_fleet: Fleet) -> Program:
    """The keeper."""
    return package_fleet.beat()


@pytest.fixture(scope="package")
def worker(package_fleet: Fleet, beat: Program) -> Program:
    """The worker `w1`: threads, every queue of ours, and the plain tasks of a user."""
    return package_fleet.worker("w1", options=OWN_TASKS)


@pytest.fixture(scope="package")
def http(package_fleet: Fleet) -> Iterator[httpx.Client]:
    """An administrator's client of an API process."""
    token = Accounts(package_fleet.container.database, SECRET_KEY).bootstrap_admin().token
    address = package_fleet.address_of(package_fleet.api())
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        yield client


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
