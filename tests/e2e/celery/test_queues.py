"""Routes and queues (REQUIREMENTS A7, E1): what is sent where, and who takes it."""

import pytest

from celeriac.adapters.celery_queue import QUEUES
from celeriac.domain.executions.states import Status
from tests.support import plain_tasks
from tests.support.celery_commands import inspect, library_user
from tests.support.fleet import Fleet
from tests.support.programs import Program

_ROUTE = """
import json
from celeriac.celery import app
names = {names}
route = app.amqp.router.route
print(json.dumps({{name: route({{}}, name)["queue"].name for name in names}}))
"""
_SEND = """
import json
from celeriac.celery import app
sent = {{queue: app.send_task("plain.where", queue=queue) for queue in {queues}}}
print(json.dumps({{queue: result.get(timeout=60) for queue, result in sent.items()}}))
"""


@pytest.mark.requirement("A7", "E1")
def test_names_are_routed_to_the_queues_of_their_kind(fleet: Fleet) -> None:
    expected = {
        "celeriac.tasks.execution.run": "task_execution",
        "celeriac.tasks.execution.anything": "task_execution",
        "celeriac.tasks.scheduled.anything": "scheduled",
        "celeriac.tasks.monitoring.ping": "monitoring",
        "shop.tasks.restock": "default",
    }
    assert library_user(fleet, _ROUTE.format(names=list(expected))) == expected


@pytest.mark.requirement("A7", "E1")
def test_a_worker_that_is_given_no_queues_takes_all_of_ours(fleet: Fleet) -> None:
    program = (
        "import json\nfrom celeriac.celery import app\n"
        "print(json.dumps({'queues': list(app.amqp.queues.consume_from)}))"
    )
    assert set(library_user(fleet, program)["queues"]) == set(QUEUES)


@pytest.mark.requirement("A7", "E1")
def test_every_queue_of_ours_is_consumed(fleet: Fleet, worker: Program) -> None:
    assert set(QUEUES) == {
        "task_execution", "default", "workflows", "enrichment", "scheduled", "monitoring",
    }  # fmt: skip
    assert {queue["name"] for queue in inspect(fleet, "active_queues")} == set(QUEUES)
    answers = library_user(fleet, _SEND.format(queues=QUEUES))
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
