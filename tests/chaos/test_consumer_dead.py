"""A worker whose consumer has died or takes nothing says so, hands back, and ends."""

from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from celeriac.domain.executions.states import Status
from tests.support import bad_consumer
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

FAULTS = {"raising": "raise", "blocked": "block", "starved": "no credit"}
"""Names of workers, and what happens to their consumers."""


def _worker(fleet: Fleet, pool: str, name: str = "w1") -> Program:
    return fleet.worker(
        name,
        pool=pool,
        slots=4,
        options=("-I", bad_consumer.MODULE),
        CELERIAC_WORKER_STALL_SECONDS="3",
        **{bad_consumer.VARIABLE: str(fleet.home / f"{name}.fault")},
    )


def _consuming(fleet: Fleet, name: str = "w1") -> bool:
    query = text("SELECT bool_and(consuming) FROM workers WHERE hostname = :name")
    return bool(fleet.scalar(query, name=f"{name}@fleet"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_it_hands_back_and_ends(fleet: Fleet, pool: str) -> None:
    """One worker after the other, each with a fault of its own, takes over what the last had."""
    fleet.beat()
    hold = fleet.task("hold")
    ids: list[UUID] = []
    short: list[UUID] = []
    begun = 0
    for name, fault in FAULTS.items():
        worker = _worker(fleet, pool, name)
        wait_until(lambda name=name: _consuming(fleet, name), f"{name} takes messages")  # type: ignore[misc]
        ids.append(fleet.submit(hold, diary=str(fleet.diary), gate=str(fleet.gate)))
        begun += len(ids)
        wait_until(lambda so_many=begun: len(fleet.diary_lines()) == so_many, "all run")  # type: ignore[misc]

        (fleet.home / f"{name}.fault").write_text(fault)
        wait_until((fleet.home / f"{name}.done").exists, "the consumer has its fault")
        waiting = fleet.submit(fleet.task("noop"))
        assert worker.wait_end(within=60) == 1
        assert fleet.get(waiting).status is not Status.COMPLETED
        assert worker.logged("worker.gives_up")
        short.append(waiting)

    fleet.lasting_worker("w2")
    fleet.open_gate()
    done = fleet.wait_terminal([*ids, *short])
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {each.crash_count for each in done} == {0}, "what ran was not handed back"


def test_health_tells_consuming_from_alive(fleet: Fleet, valkey: ValkeyServer) -> None:
    """While Redis is away no worker takes messages, and none ends for that."""
    worker = _worker(fleet, "threads")
    address = fleet.address_of(fleet.api())

    def health() -> httpx.Response:
        return httpx.get(f"{address}/health/celery", timeout=30)

    wait_until(lambda: health().status_code == 200, "all is well")
    body = health().json()
    assert (body["status"], body["consuming"]) == ("ok", 1)
    assert body["processes"][0]["consuming"] is True
    assert "task_execution" in body["processes"][0]["queues"]

    valkey.kill()
    wait_until(lambda: health().status_code == 503, "no worker takes messages")
    body = health().json()
    assert (body["status"], body["workers"], body["consuming"]) == ("unavailable", 1, 0)
    valkey.start()
    wait_until(lambda: health().status_code == 200, "it takes messages again")
    assert worker.exit_code is None
    fleet.wait_terminal([fleet.submit(fleet.task("noop"))])
    wait_until(lambda: worker.logged("broker.back"), "it is logged, which takes up to 0.2 s")
    assert len(worker.logged("broker.unavailable")) == 1, "one line for each change"
    assert len(worker.logged("broker.back")) == 1
