"""PostgreSQL can't be written to, or doesn't answer, for longer than a lease; a standby takes over.

Nobody could renew a lease meanwhile: no execution may be taken from its worker for that.
"""

import time
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from tests.support.fixtures import migrated_database
from tests.support.fleet import SHORT_TIMES, Fleet, running_fleet
from tests.support.outages import switch
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres, running_standby
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13", "F2")

LEASE_SECONDS = float(SHORT_TIMES["CELERIAC_WORKER_LEASE_SECONDS"])
COUNT = 4


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may freeze and kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_database(own_postgres: PostgresServer) -> str:
    """The name of a database on it with our tables."""
    return migrated_database(own_postgres)


@pytest.fixture
def fleet(own_postgres: PostgresServer, own_database: str, valkey: ValkeyServer) -> Iterator[Fleet]:
    """A fleet on it."""
    url = own_postgres.url(own_database)
    with (
        temporary_directory() as home,
        running_fleet(home, database_url=url, redis_url=valkey.url()) as made,
    ):
        yield made


def start(fleet: Fleet, function: str) -> tuple[Program, Program, Sequence[UUID]]:
    """Start a keeper, a worker and executions; return when the keeper would rescue what is lost."""
    beat, worker = fleet.beat(), fleet.worker(slots=COUNT)
    task = fleet.task(function)
    ids = [fleet.submit(task, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(COUNT)]
    wait_until(lambda: len(fleet.diary_lines()) == COUNT, "all run")
    pass_a_lease()
    return beat, worker, ids


def pass_a_lease() -> None:
    """Wait until all leases that are not renewed have run out."""
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + 2 * LEASE_SECONDS, "twice a lease has passed")


def wait_settled(fleet: Fleet, ids: Sequence[UUID]) -> None:
    """Wait until each lease is renewed, or its execution was taken from its worker."""
    query = text(
        "SELECT count(*) FROM executions e JOIN workers w ON w.id = e.worker_id"
        " WHERE e.id = ANY(:ids) AND (w.lease_until > clock_timestamp() OR e.crash_count > 0)"
    )
    wait_until(lambda: fleet.scalar(query, ids=list(ids)) == len(ids), "somebody has acted")


def outlast_a_lease(worker: Program) -> None:
    """Wait until a worker has failed to renew its leases for longer than they last."""
    already = len(worker.logged("heartbeat.database_unavailable"))
    wait_until(
        lambda: len(worker.logged("heartbeat.database_unavailable")) >= already + 6,
        "more heartbeats failed than a lease is long",
    )


def assert_undisturbed(fleet: Fleet, ids: Sequence[UUID]) -> None:
    """Check that all ended in the attempts that they were in."""
    done = fleet.wait_terminal(ids)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done} == {(1, 0)}, "work was done twice"


def assert_billed_once(fleet: Fleet, ids: Sequence[UUID]) -> None:
    """Check that every model call and every event is there, once."""
    for each in map(fleet.get, ids):
        assert each.model_call_count == each.input_tokens == each.result, (
            "a call was lost or doubled"
        )
        told = [event.data["done"] for event in fleet.events(each.id)
                if event.type is EventType.PROGRESS]  # fmt: skip
        assert told == list(range(1, each.result + 1)), "an event was lost or doubled"


def test_read_only_for_longer_than_a_lease(
    fleet: Fleet, own_postgres: PostgresServer, own_database: str
) -> None:
    _, worker, ids = start(fleet, "bill")
    url = own_postgres.url(own_database)
    switch(url, read_only=True)
    outlast_a_lease(worker)
    fleet.open_gate()  # the results have to wait, too
    outlast_a_lease(worker)
    switch(url, read_only=False)
    assert_undisturbed(fleet, ids)
    assert_billed_once(fleet, ids)


def test_frozen_for_longer_than_a_lease(fleet: Fleet, own_postgres: PostgresServer) -> None:
    """As with a pooler that is paused: statements hang, then they are carried out."""
    _, _, ids = start(fleet, "bill")
    for _ in range(3):
        own_postgres.freeze()
        pass_a_lease()
        own_postgres.thaw()
        wait_settled(fleet, ids)
    fleet.open_gate()
    assert_undisturbed(fleet, ids)
    assert_billed_once(fleet, ids)


def test_a_standby_takes_over(
    own_postgres: PostgresServer, own_database: str, valkey: ValkeyServer
) -> None:
    """Its server has run all the time: nothing in it tells that it was not the primary.

    It is synchronous, as where a failover may lose nothing: what was committed is on both.
    """
    with running_standby(own_postgres) as standby, temporary_directory() as home:
        url = own_postgres.url_with(standby, own_database)
        with running_fleet(home, database_url=url, redis_url=valkey.url()) as fleet:
            _, worker, ids = start(fleet, "bill")
            reached = own_postgres.position()
            wait_until(lambda: standby.follows(reached), "the standby has it all")
            own_postgres.wait_for_standby()
            billed = text("SELECT sum(event_seq) FROM executions")
            before = fleet.scalar(billed)
            wait_until(lambda: fleet.scalar(billed) > before + 2 * COUNT, "notes are on both")
            own_postgres.kill()
            outlast_a_lease(worker)
            standby.promote()
            fleet.open_gate()
            fleet.scalar(text("SELECT 1"))
            assert_undisturbed(fleet, ids)
            assert_billed_once(fleet, ids)
            later = fleet.submit(fleet.task("noop"))
            assert fleet.wait_terminal([later])[0].status is Status.COMPLETED


def test_a_keeper_that_was_frozen_takes_nothing(
    fleet: Fleet, own_postgres: PostgresServer, own_database: str
) -> None:
    """It slept through an outage, and wakes up before the worker could renew anything."""
    beat, worker, ids = start(fleet, "hold")
    url = own_postgres.url(own_database)
    beat.freeze()
    switch(url, read_only=True)
    outlast_a_lease(worker)
    worker.freeze()
    switch(url, read_only=False)
    beat.thaw()
    crashed = text("SELECT count(*) FROM executions WHERE crash_count > 0")
    wait_until(
        lambda: (
            beat.logged("keeper.view_interrupted")
            or beat.logged("keeper.database_unavailable")
            or fleet.scalar(crashed) > 0
        ),
        "the keeper has looked",
    )
    worker.thaw()
    fleet.open_gate()
    assert_undisturbed(fleet, ids)
