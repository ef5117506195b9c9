"""PostgreSQL is killed while workers claim and finish, and is started again."""

from collections.abc import Iterator

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fixtures import migrated_database
from tests.support.fleet import Fleet, running_fleet
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def fleet(own_postgres: PostgresServer, valkey: ValkeyServer) -> Iterator[Fleet]:
    """A fleet on it."""
    url = own_postgres.url(migrated_database(own_postgres))
    with (
        temporary_directory() as home,
        running_fleet(home, database_url=url, redis_url=valkey.url()) as made,
    ):
        yield made


def test_killed_during_claims(fleet: Fleet, own_postgres: PostgresServer) -> None:
    fleet.beat()
    fleet.worker(slots=8)
    ids = fleet.batch(fleet.task("nap"), [{"seconds": 0.05}] * 400)
    wait_until(lambda: fleet.ended(ids) > 40, "the work is under way")
    own_postgres.kill()
    own_postgres.start()
    done = fleet.wait_terminal(ids, within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {each.crash_count for each in done} == {0}, "a claim whose answer got lost cost a crash"


def test_away_for_longer_than_a_lease(fleet: Fleet, own_postgres: PostgresServer) -> None:
    """Nobody can renew a lease while it is away; nobody may be robbed of one for that."""
    fleet.beat()
    worker = fleet.worker(slots=4)
    task = fleet.task("hold")
    ids = [fleet.submit(task, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(4)]
    wait_until(lambda: len(fleet.diary_lines()) == 4, "all run")
    own_postgres.kill()
    wait_until(
        lambda: len(worker.logged("heartbeat.database_unavailable")) >= 6,
        "more heartbeats failed than a lease is long",
    )
    fleet.open_gate()
    own_postgres.start()
    done = fleet.wait_terminal(ids)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done} == {(1, 0)}, "work was done twice"
