"""Cancellations that race with everything else."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import redis

from celeriac.adapters.redis_events import cancel_channel
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps
from tests.support.fleet import Fleet
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("C5")

EXECUTIONS = 200
LONGEST_SECONDS = 0.3


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_cancelling_at_any_moment(fleet: Fleet, pool: str) -> None:
    """Each ends once: as what it came to, or as cancelled, and its log says the same."""
    fleet.beat()
    fleet.worker(pool=pool, slots=16 if pool == "threads" else 2)
    count = EXECUTIONS if pool == "threads" else EXECUTIONS // 4
    chance = random.Random(20261122)
    naps = [{"seconds": chance.uniform(0, LONGEST_SECONDS)} for _ in range(count)]
    task = fleet.task("nap")
    ids = fleet.batch(task, naps)

    def cancel(execution_id: UUID, after: float) -> None:
        time.sleep(after)  # the moment is the point
        fleet.container.cancel(fleet.actor, [execution_id])

    with ThreadPoolExecutor(8) as cancellers:
        for execution_id in ids:
            cancellers.submit(cancel, execution_id, chance.uniform(0, LONGEST_SECONDS))
    done = fleet.wait_terminal(ids, within=60)
    assert {each.status for each in done} <= {Status.COMPLETED, Status.CANCELLED}
    assert {each.status for each in done} >= {Status.CANCELLED}, "none was cancelled in time"
    for each in done:
        assert each.crash_count == 0
        assert each.cancel_requested_by in {None, fleet.actor.name}
        if each.status is Status.CANCELLED:
            assert each.result is None


def test_a_running_one_stops_and_says_who_and_a_word_on_redis_alone_cancels_nothing(
    fleet: Fleet, valkey: ValkeyServer
) -> None:
    """Whoever may publish there makes the worker look at the row, and at nothing else (M4)."""
    fleet.worker(slots=4)
    task = fleet.task("hold")
    here = {"diary": str(fleet.diary), "gate": str(fleet.gate)}
    named, other = fleet.submit(task, **here), fleet.submit(task, **here)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "both run")
    forged = [dumps([str(named)]), "garbage", b"\xff", "5", "null", "{}", '["x", 5, null]']
    with redis.Redis.from_url(valkey.url()) as client:
        for word in forged:
            client.publish(cancel_channel(), word)
    fleet.container.cancel(fleet.actor, [other])
    done = fleet.wait_terminal([other])[0]
    assert (done.status, done.cancel_requested_by) == (Status.CANCELLED, fleet.actor.name)
    assert fleet.event_types(other)[-2:] == ["cancel_requested", "cancelled"]
    assert fleet.get(named).status is Status.RUNNING
    fleet.open_gate()
    assert fleet.wait_terminal([named])[0].status is Status.COMPLETED


def test_where_its_worker_is_lost_the_keeper_cancels_it(fleet: Fleet) -> None:
    fleet.beat()
    worker = fleet.worker()
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    worker.freeze()
    fleet.container.cancel(fleet.actor, [execution])
    worker.kill()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt) == (Status.CANCELLED, 1)


def test_cancelling_and_finishing_at_the_same_instant(fleet: Fleet) -> None:
    """All agents end together when the gate opens, and all are cancelled then."""
    fleet.beat()
    fleet.worker(slots=40)
    task = fleet.task("hold")
    variables = {"diary": str(fleet.diary), "gate": str(fleet.gate)}
    ids = fleet.batch(task, [variables] * 40)
    wait_until(lambda: len(fleet.diary_lines()) == 40, "all run")
    opening = threading.Thread(target=fleet.open_gate)
    opening.start()
    fleet.container.cancel(fleet.actor, ids)
    opening.join()
    done = fleet.wait_terminal(ids)
    assert {each.status for each in done} <= {Status.COMPLETED, Status.CANCELLED}
    for each in done:
        assert (each.result is not None) == (each.status is Status.COMPLETED)
