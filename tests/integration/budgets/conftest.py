"""A core and a process that spends, on a database without executions and budgets."""

from collections.abc import Iterator

import pytest

from celeriac.db.engine import Database
from tests.support.core import Core
from tests.support.emptying import empty
from tests.support.servers import PostgresServer
from tests.support.spending import Spending

EMPTIED = """
executions execution_inputs execution_results events model_calls approvals
budgets budget_windows budget_reservations usage_days usage_deltas model_call_times
""".split()


@pytest.fixture(scope="package")
def shared_database(postgres_server: PostgresServer, migrated: str) -> Iterator[Database]:
    """A migrated database for the tests of this package."""
    name = postgres_server.fresh_database(migrated)
    opened = Database(postgres_server.url(name), connections=12)
    yield opened
    opened.close()
    postgres_server.drop_database(name)


@pytest.fixture
def core(shared_database: Database) -> Core:
    """The services, on a database that is emptied of all that executions leave."""
    with shared_database.transaction() as connection:
        empty(connection, EMPTIED)
    return Core(shared_database)


@pytest.fixture
def spending(core: Core) -> Spending:
    return Spending(core)
