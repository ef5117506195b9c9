"""Routes and queues (REQUIREMENTS A7, E1): what is sent where, and who takes it."""

import pytest

from celeriac.adapters.celery_queue import QUEUES
from celeriac.domain.executions.states import Status
from tests.support import plain_tasks
from tests.support.celery_commands import inspect
from tests.support.fleet import Fleet
from tests.support.programs import Program


@pytest.mark.requirement("A7", "E1")
def test_names_are_routed_to_the_queues_of_their_kind(fleet: Fleet) -> None:
    expected = {
        "celeriac.tasks.execution.run": "task_execution",
        "celeriac.tasks.execution.anything": "task_execution",
        "celeriac.tasks.scheduled.anything": "scheduled",
        "celeriac.tasks.monitoring.ping": "monitoring",
        "shop.tasks.restock": "default",
    }
    route = fleet.celery.amqp.router.route
    assert {name: route({}, name)["queue"].name for name in expected} == expected


@pytest.mark.requirement("A7", "E1")
def test_a_worker_that_is_given_no_queues_takes_all_of_ours(fleet: Fleet) -> None:
    assert set(fleet.celery.amqp.queues.consume_from) == set(QUEUES)


@pytest.mark.requirement("A7", "E1")
def test_every_queue_of_ours_is_consumed(fleet: Fleet, worker: Program) -> None:
    assert set(QUEUES) == {
        "task_execution", "default", "workflows", "enrichment", "scheduled", "monitoring",
    }  # fmt: skip
    assert {queue["name"] for queue in inspect(fleet, "active_queues")} == set(QUEUES)
    sent = {queue: fleet.celery.send_task("plain.where", queue=queue) for queue in QUEUES}
    answers = {queue: result.get(timeout=60) for queue, result in sent.items()}
    assert answers == {queue: queue for queue in QUEUES}


@pytest.mark.requirement("A7")
def test_a_tasks_own_queue_is_consumed_by_the_worker_that_is_given_it(
    fleet: Fleet, worker: Program
) -> None:
    task = fleet.task("note", queue="reports")
    first = fleet.submitted(task, diary=str(fleet.diary))
    # the worker of all our queues has run what came after it, and left it alone
    fleet.wait_terminal([fleet.submit(fleet.task("noop"))])
    assert fleet.get(first.execution_id).status is Status.QUEUED
    assert fleet.get(first.execution_id).queue == "reports"

    reports = fleet.worker("reports", options=("-Q", "reports", "-I", plain_tasks.MODULE))
    ids = [first.execution_id, *(fleet.submit(task, diary=str(fleet.diary)) for _ in range(3))]
    for done in fleet.wait_terminal(ids):
        assert done.status is Status.COMPLETED
        assert done.worker_hostname is not None
        assert done.worker_hostname.startswith("reports@fleet"), "who wasn't given the queue had it"
    assert [queue["name"] for queue in inspect(fleet, "active_queues", "reports")] == ["reports"]
    reports.terminate()
    assert reports.wait_end() == 0
