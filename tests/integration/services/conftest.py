"""The core on a database without executions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.adapters.object_store import ObstoreObjects
from celeriac.db.engine import Database
from celeriac.kit.loop import LoopThread
from tests.support.core import Core
from tests.support.durable_bench import Bench
from tests.support.emptying import empty
from tests.support.objects import Machine, objects_in
from tests.support.schedules import ScheduleDesk
from tests.support.servers import PostgresServer
from tests.support.workflows import Flows

EMPTIED = """
workflow_runs step_runs fan_ins step_items item_ends run_limits execution_labels execution_limits
execution_rates debounces limits schedules schedule_fires pauses maintenance_jobs bulk_jobs
bulk_job_items views secrets executions execution_inputs execution_results events model_calls
idempotency_keys audit_logs audit_seals sessions session_messages approvals usage_days
model_call_times usage_deltas execution_ends execution_rollups failure_groups plain_task_sums
plain_task_runs workers deliveries webhook_endpoints hooks hook_deliveries budget_windows steps
children live_children execution_trees ended_parents celery_calls file_sets artifacts objects
transcript_entries
""".split()
"""What executions leave; users, agents and tasks stay."""


@pytest.fixture
def own_database(postgres_server: PostgresServer, migrated: str) -> Iterator[Database]:
    """A migrated database for one test, which may change its schema."""
    name = postgres_server.fresh_database(migrated)
    database = Database(postgres_server.url(name), connections=1)
    yield database
    database.close()


@pytest.fixture(scope="module")
def shared_database(postgres_server: PostgresServer, migrated: str) -> Iterator[Database]:
    """A migrated database for the tests of one module."""
    name = postgres_server.fresh_database(migrated)
    opened = Database(postgres_server.url(name), connections=12)
    yield opened
    opened.close()
    postgres_server.drop_database(name)


@pytest.fixture
def database(shared_database: Database) -> Database:
    """The module's database, emptied of all that executions leave."""
    shared_database.engine.dispose()  # the test before may have cut its connections
    with shared_database.transaction() as connection:
        empty(connection, EMPTIED)
    return shared_database


@pytest.fixture
def core(database: Database) -> Core:
    """The services on it."""
    return Core(database)


@pytest.fixture
def flows(core: Core) -> Flows:
    """Workflows whose executions the test itself runs."""
    return Flows(core)


@pytest.fixture
def desk(flows: Flows) -> ScheduleDesk:
    """Schedules, and their keeper."""
    return ScheduleDesk(flows)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop in a thread, as a worker has it."""
    started = LoopThread()
    yield started
    started.close()


@pytest.fixture
def bench(core: Core, tmp_path: Path, loop: LoopThread) -> Bench:
    """A worker that runs durable functions."""
    return Bench(core, tmp_path, loop)


@pytest.fixture
def objects(tmp_path: Path) -> ObstoreObjects:
    """An empty object store."""
    return objects_in(tmp_path)


@pytest.fixture
def one(core: Core, tmp_path: Path, objects: ObstoreObjects) -> Machine:
    """A machine with a worker and a home."""
    return Machine(core, tmp_path / "one", objects)


@pytest.fixture
def other(core: Core, tmp_path: Path, objects: ObstoreObjects) -> Machine:
    """Another one, with the same object store."""
    return Machine(core, tmp_path / "other", objects)
