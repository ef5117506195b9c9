"""Celery tasks over HTTP."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from celery.app.task import Context

from celeriac.adapters.celery_queue import create_app
from celeriac.domain.executions.calls import BATCH_PROCESS, EXECUTE_AGENT, Arguments, NewCall
from celeriac.domain.executions.model import Completed, Failure, Retry, SubmitRequest
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.calls import CallIdentity, StartCalls
from celeriac.wiring.core import CoreServices, celery_options
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import claim, finish

PATH = "/api/v1/celery-tasks"
PING = {"name": "celeriac.tasks.monitoring.ping"}


@pytest.mark.requirement("B3", "B4")
def test_a_plain_task_is_sent_and_followed(ada: Asker, container: CoreServices) -> None:
    sent = ada.post(PATH, json=PING)
    assert sent.status_code == 202, sent.text
    body = sent.json()
    assert (body["status"], body["simple_status"]) == ("PENDING", "pending")
    assert container.queue.depth("monitoring") == 1, "it waits in the queue of its route"
    path = body["_links"]["self"]
    assert ada.get(path).json()["status"] == "PENDING"
    # what a worker writes while it runs the task
    backend = create_app(celery_options(container.settings, publisher=True)).backend
    backend.store_result(body["task_id"], None, "STARTED")
    assert ada.get(path).json()["simple_status"] == "in_progress"
    backend.store_result(body["task_id"], "pong", "SUCCESS")
    done = ada.get(path).json()
    assert (done["status"], done["simple_status"], done["result"]) == (
        "SUCCESS", "completed", "pong",
    )  # fmt: skip
    assert done["completed_at"] is not None


@pytest.mark.requirement("B4", "D4", "D8")
def test_a_failed_plain_task_tells_why(ada: Asker, container: CoreServices) -> None:
    body = ada.post(PATH, json=PING).json()
    backend = create_app(celery_options(container.settings, publisher=True)).backend
    request = Context(
        args=("a", "password=hunter2"), kwargs={"api_key": "k", "size": 2}, retries=3,
        hostname="celery@a", task=PING["name"],
    )  # fmt: skip
    backend.store_result(
        body["task_id"], ValueError("no"), "FAILURE", traceback="Traceback …", request=request
    )
    found = ada.get(f"{PATH}/{body['task_id']}").json()
    assert (found["status"], found["simple_status"]) == ("FAILURE", "failed")
    assert found["error"] == {"type": "ValueError", "message": "no", "traceback": "Traceback …"}
    assert (found["worker"], found["retries"]) == ("celery@a", 3)
    assert found["args"] == ["a", "password=***"]
    assert found["kwargs"] == {"api_key": "***", "size": 2}


def test_a_plain_task_is_sent_once_under_one_key(ada: Asker, container: CoreServices) -> None:
    headers = {"Idempotency-Key": "ping-1"}
    first = ada.post(PATH, json=PING, headers=headers)
    again = ada.post(PATH, json=PING, headers=headers)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert container.queue.depth("monitoring") == 1
    other = ada.post(PATH, json=PING | {"args": [1]}, headers=headers)
    assert_problem(other, 422, "idempotency_mismatch")


@pytest.mark.requirement("B4", "D4")
def test_an_execution_s_celery_task_stands_as_the_execution(
    ada: Asker, container: CoreServices
) -> None:
    accepted = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
    path = accepted["_links"]["celery_task"]
    found = ada.get(path).json()
    assert (found["status"], found["simple_status"]) == ("PENDING", "pending")
    assert found["execution_id"] == accepted["execution_id"]
    assert found["kwargs"] == {"text": "a"}
    claimed = claim(container, accepted["execution_id"])
    found = ada.get(path).json()
    assert (found["status"], found["simple_status"]) == ("STARTED", "in_progress")
    failure = Failure("agent_failed", "no", {"type": "E", "traceback": "T", "attempt": 1})
    finish(container, claimed, Retry(failure, 0.0))
    found = ada.get(path).json()
    assert (found["status"], found["simple_status"]) == ("RETRY", "in_progress")
    assert found["error"] == {"type": "E", "message": "no", "traceback": "T"}
    container.dispatch.send_due()
    execution = ada.get(accepted["_links"]["self"]).json()
    finish(container, claim(container, accepted["execution_id"], attempt=1), Completed(7))
    second = execution["_links"]["celery_task"]
    assert second != path
    for message in (path, second):
        found = ada.get(message).json()
        assert (found["status"], found["result"]) == ("SUCCESS", 7), "found by each message's id"
        assert found["simple_status"] == "completed"
        assert found["execution_id"] == accepted["execution_id"]
    assert_problem(ada.get(f"{second[:-4]}0bad"), 404, "not_found")
    cancelled = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
    ada.post(cancelled["_links"]["cancel"])
    found = ada.get(cancelled["_links"]["celery_task"]).json()
    assert (found["status"], found["simple_status"]) == ("REVOKED", "cancelled")


def test_what_nobody_knows_is_pending_for_an_administrator_alone(ada: Asker, admin: Asker) -> None:
    path = f"{PATH}/{uuid4()}"
    assert_problem(ada.get(path), 404, "not_found")
    assert admin.get(path).json()["status"] == "PENDING", "as Celery has it"


def test_a_task_that_has_started_an_execution_stands_as_it(
    ada: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    celery_task_id = str(uuid4())
    known = ada.get("/api/v1/tasks/summarise").json()
    start = StartCalls(
        container.database,
        Tasks(container.database),
        container.submit,
        container.dispatch,
        CallIdentity(container.database, user="ada", workspace=None),
        start_run=lambda *_: uuid4(),
    )
    call = NewCall(celery_task_id, EXECUTE_AGENT, "{}")
    start.execution(call, Arguments(known["id"], [{"text": "a"}]))

    found = ada.get(f"{PATH}/{celery_task_id}").json()
    assert (found["status"], found["name"]) == ("PENDING", EXECUTE_AGENT)
    execution = ada.get(f"/api/v1/task-executions/{found['execution_id']}").json()
    assert (execution["trigger_type"], execution["status"]) == ("celery", "queued")
    finish(container, claim(container, found["execution_id"]), Completed(7))
    found = ada.get(f"{PATH}/{celery_task_id}").json()
    assert (found["status"], found["result"]) == ("SUCCESS", 7)
    assert_problem(person("bob").get(f"{PATH}/{celery_task_id}"), 404, "not_found")


def test_a_batch_of_a_task_has_started_until_its_end(ada: Asker, container: CoreServices) -> None:
    actor = CallIdentity(container.database, user="ada", workspace=None).actor("c")
    call = NewCall(str(uuid4()), BATCH_PROCESS, "{}")
    task_id = Tasks(container.database).resolve(actor, "summarise")
    request = SubmitRequest(task_id=task_id, call=call)
    container.submit.batch(actor, request, [{"text": "a"}, {"text": "b"}])

    found = ada.get(f"{PATH}/{call.celery_task_id}").json()

    assert (found["status"], found["name"]) == ("STARTED", BATCH_PROCESS)
