"""When messages of executions are acknowledged, and how many a busy worker takes."""

from collections.abc import Iterator

import pytest
from redis import Redis

from celeriac.domain.executions.states import Status
from celeriac.embedded.valkey import BROKER_DATABASE
from tests.support.fleet import Fleet
from tests.support.outages import holding
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

QUEUE = "task_execution"


@pytest.fixture
def broker(valkey: ValkeyServer) -> Iterator[Redis]:
    with Redis.from_url(valkey.url(BROKER_DATABASE)) as client:
        yield client


@pytest.mark.requirement("B13")
@pytest.mark.parametrize(("pool", "slots"), [("threads", 2), ("prefork", 1)])
def test_a_long_run_holds_no_message(fleet: Fleet, broker: Redis, pool: str, slots: int) -> None:
    fleet.worker(pool=pool, slots=slots)
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    wait_until(lambda: broker.hlen("unacked") == 0, "its message is acknowledged")
    assert fleet.get(execution).status is Status.RUNNING
    fleet.open_gate()
    assert fleet.wait_terminal([execution])[0].attempt == 1


@pytest.mark.requirement("B13")
@pytest.mark.parametrize(("pool", "slots"), [("threads", 2), ("prefork", 2), ("solo", 1)])
@pytest.mark.parametrize("coroutines", [0, 1])
def test_no_message_waits_behind_long_runs(
    fleet: Fleet, pool: str, slots: int, coroutines: int
) -> None:
    """There is no keeper here: what a busy worker has taken nobody else could run."""
    fleet.worker(pool=pool, slots=slots, CELERIAC_WORKER_COROUTINES=str(coroutines))
    hold = fleet.task("hold")
    count = slots + coroutines * (slots if pool == "prefork" else 1)
    held = []
    for number in range(1, count + 1):
        held.append(fleet.submit(hold, diary=str(fleet.diary), gate=str(fleet.gate)))
        wait_until(lambda n=number: len(fleet.diary_lines()) == n, "it runs")  # type: ignore[misc]
    short = fleet.submit(fleet.task("noop"), number=1)
    fleet.worker("idle", slots=1)
    done = fleet.wait_terminal([short])[0]
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert (done.worker_hostname or "").startswith("idle@")
    assert {fleet.get(each).status for each in held} == {Status.RUNNING}
    fleet.open_gate()
    assert {each.attempt for each in fleet.wait_terminal(held)} == {1}


@pytest.mark.requirement("B13")
def test_a_worker_that_dies_between_acknowledgement_and_claim_loses_nothing(
    fleet: Fleet, broker: Redis
) -> None:
    fleet.beat()
    execution = fleet.submit(fleet.task("noop"), number=1)
    lock = f"SELECT id FROM executions WHERE id = '{execution}' FOR UPDATE"
    with holding(fleet.container.database.engine.url, lock):
        worker = fleet.worker()
        wait_until(
            lambda: fleet.container.queue.depth(QUEUE) + broker.hlen("unacked") == 0,
            "its message is acknowledged, and its claim waits for the row",
        )
        assert fleet.get(execution).status is Status.QUEUED
        worker.kill()
    fleet.lasting_worker("w2")
    done = fleet.wait_terminal([execution])[0]
    assert done.status is Status.COMPLETED
    fleet.assert_consistent()
