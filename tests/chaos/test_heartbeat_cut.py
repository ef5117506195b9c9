"""The connection of a worker's heartbeat alone is cut; all its others work."""

from collections.abc import Iterator

import pytest

from celeriac.domain.executions.states import Status
from celeriac.embedded.postgres import ROLE
from tests.support.chaos.proxy import PostgresProxy
from tests.support.fleet import Fleet
from tests.support.servers import PostgresServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")

HEARTBEAT = "celeriac-heartbeat"


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[PostgresProxy]:
    with PostgresProxy().running() as proxy:
        proxy.lead_to(postgres_server.postgres.sockets / ".s.PGSQL.5432")
        yield proxy


def proxied(fleet: Fleet, postgres_server: PostgresServer, proxy: PostgresProxy) -> str:
    """Return the address of the fleet's database behind the proxy."""
    database = fleet.container.database.engine.url.database
    return (
        f"postgresql+psycopg://{ROLE}:{postgres_server.postgres.password}"
        f"@127.0.0.1:{proxy.port}/{database}?sslmode=disable&gssencmode=disable"
    )


def test_its_executions_go_to_another_and_it_claims_nothing_until_it_can_renew(
    fleet: Fleet, postgres_server: PostgresServer, proxy: PostgresProxy
) -> None:
    """What it claimed would be taken from it at once, and a crash counted each time."""
    fleet.beat()
    cut = fleet.worker("cut", slots=2, DATABASE_URL=proxied(fleet, postgres_server, proxy))
    talk = fleet.task("talk")
    execution = fleet.submit(talk, diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    proxy.refuse(HEARTBEAT)
    # the cut worker can still write, and learns by that that nothing is its own any more
    wait_until(lambda: fleet.get(execution).crash_count == 1, "it is rescued")
    wait_until(lambda: cut.logged("execution.lease_lost"), "its attempt has ended")
    others = [fleet.submit(fleet.task("noop"), number=number) for number in range(3)]
    before = len(cut.logged("heartbeat.database_unavailable"))
    wait_until(
        lambda: len(cut.logged("heartbeat.database_unavailable")) >= before + 5,
        "it has tried to renew several times",
    )
    assert {fleet.get(each).attempt for each in others} == {0}

    whole = fleet.lasting_worker("whole")
    wait_until(lambda: len(fleet.diary_lines()) == 2, "the other worker runs it")
    fleet.open_gate()
    done = fleet.wait_terminal([execution, *others])
    assert {each.status for each in done} == {Status.COMPLETED}
    assert [(each.attempt, each.crash_count) for each in done] == [(2, 1), *[(1, 0)] * 3]
    attempts = [event.attempt for event in fleet.events(execution)]
    assert attempts == sorted(attempts), "the cut worker wrote after it had lost its lease"

    proxy.refuse(None)
    wait_until(lambda: cut.logged("worker.declared_lost"), "it has a new identity")
    whole.terminate()
    wait_until(lambda: whole.exit_code is not None, "the other worker has ended")
    again = fleet.submit(fleet.task("noop"), number=1)
    done = fleet.wait_terminal([again])
    assert [(each.status, each.attempt, each.crash_count) for each in done] == [
        (Status.COMPLETED, 1, 0)
    ]
    assert (done[0].worker_hostname or "").startswith("cut@")
    fleet.assert_consistent()
