"""Redis databases (A22): 0 for the application, 1 for the broker, 2 for results."""

import pytest
import redis

from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until


@pytest.mark.requirement("A22")
def test_broker_results_and_application_do_not_share_a_database(
    fleet: Fleet, worker: Program, valkey: ValkeyServer
) -> None:
    submitted = fleet.submitted(fleet.task("noop"))
    fleet.wait_terminal([submitted.execution_id])
    sent = fleet.celery.send_task("celeriac.tasks.monitoring.ping")
    sent.get(timeout=60)
    application, broker, results = (_keys(valkey, number) for number in (0, 1, 2))
    assert f"celery-task-meta-{sent.id}" in results
    assert all(key.startswith("celery-task-meta-") for key in results), results
    assert f"celery-task-meta-{submitted.celery_task_id}" not in results, (
        "an execution's result lies in PostgreSQL alone"
    )
    assert any(key.startswith("_kombu.binding.") for key in broker), broker
    celerys = ("celery", "_kombu", "unacked")
    assert not [key for key in application if key.startswith(celerys)]


@pytest.mark.requirement("A22")
def test_nothing_is_left_with_the_broker_when_all_is_done(
    fleet: Fleet, worker: Program, valkey: ValkeyServer
) -> None:
    fleet.wait_terminal([fleet.submit(fleet.task("noop")) for _ in range(20)])
    wait_until(lambda: "unacked" not in _keys(valkey, 1), "all messages are acknowledged")
    assert "task_execution" not in _keys(valkey, 1)


def _keys(valkey: ValkeyServer, number: int) -> set[str]:
    with redis.Redis.from_url(valkey.url(number), decode_responses=True) as client:
        return set(client.scan_iter())
