"""Running tasks over HTTP."""

from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from fastapi.testclient import TestClient

from celeriac.api.app import create_app
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.wiring.core import CoreServices, build
from tests.support.api import EXECUTE, TASK, Asker, assert_problem
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

BATCH = "/api/v1/tasks/summarise/execute-batch"
EXECUTIONS = "/api/v1/task-executions"
ONE = {"variables": {"text": "One."}}


@pytest.mark.requirement("A1")
def test_execute_answers_queued_with_links(ada: Asker) -> None:
    response = ada.post(EXECUTE, json=ONE)
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["status"] == "queued"
    execution, celery = body["execution_id"], body["celery_task_id"]
    links = body["_links"]
    assert links["self"] == f"{EXECUTIONS}/{execution}"
    assert links["task"] == f"/api/v1/tasks/{body['task_id']}"
    assert links["session"] is None
    assert links["celery_task"] == f"/api/v1/admin/celery-tasks/{celery}"
    for name in ("self", "task", "celery_task", "events"):
        assert ada.get(links[name]).status_code == 200, f"the link {name} leads nowhere"


@pytest.mark.requirement("A5")
def test_an_execution_records_what_was_asked(ada: Asker) -> None:
    asked = ONE | {"priority": "critical", "queue": "urgent"}
    accepted = ada.post(EXECUTE, json=asked).json()
    execution = ada.get(accepted["_links"]["self"]).json()
    assert execution["trigger_type"] == "manual"
    assert execution["variables"] == {"text": "One."}
    assert (execution["priority"], execution["queue"]) == ("critical", "urgent")
    assert execution["celery_task_id"] == accepted["celery_task_id"]
    assert execution["queued_at"] is not None
    assert execution["started_at"] is None


@pytest.mark.requirement("A5")
def test_an_execution_records_what_came_of_it(ada: Asker, container: CoreServices) -> None:
    accepted = ada.post(EXECUTE, json=ONE).json()
    claimed = claim(container, accepted["execution_id"])
    details = {"type": "ValueError", "traceback": "Traceback …", "attempt": 1}
    finish(container, claimed, Failed(Failure("agent_failed", "no luck", details)))
    execution = ada.get(accepted["_links"]["self"]).json()
    assert execution["status"] == "failed"
    assert execution["worker_hostname"] == "test-worker"
    assert execution["duration_seconds"] >= 0
    assert execution["completed_at"] >= execution["started_at"]
    assert (execution["error_code"], execution["error_message"]) == ("agent_failed", "no luck")
    assert execution["error_details"] == details
    assert execution["_links"]["cancel"] is None, "there is nothing to cancel"


@pytest.mark.parametrize("when", ["delay_seconds", "available_at"])
def test_a_delayed_execution_waits_as_pending(ada: Asker, when: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    value = 3600 if when == "delay_seconds" else later.isoformat()
    accepted = ada.post(EXECUTE, json=ONE | {when: value}).json()
    assert accepted["status"] == "pending"
    assert accepted["_links"]["celery_task"] is None
    execution = ada.get(accepted["_links"]["self"]).json()
    available = datetime.fromisoformat(execution["available_at"])
    assert abs((available - later).total_seconds()) < 60


def test_a_task_without_variables_needs_no_body(ada: Asker) -> None:
    plain = {"name": "plain", "agent": "writer", "spec": {"prompt": "Say something."}}
    assert ada.post("/api/v1/tasks", json=plain).status_code == 201
    assert ada.post("/api/v1/tasks/plain/execute").status_code == 202


def test_the_same_key_and_request_give_the_same_execution(ada: Asker) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = ada.post(EXECUTE, json=ONE, headers=headers)
    again = ada.post(EXECUTE, json={"priority": None, **ONE}, headers=headers)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (202, first.json()), "defaults make no difference"
    other = ada.post(EXECUTE, json={"variables": {"text": "Two."}}, headers=headers)
    assert_problem(other, 422, "idempotency_mismatch")
    other = ada.post(BATCH, json={"items": [{"text": "One."}]}, headers=headers)
    assert_problem(other, 422, "idempotency_mismatch")
    bad = ada.post(EXECUTE, json=ONE, headers={"Idempotency-Key": "x" * 256})
    assert assert_problem(bad, 422, "invalid_input")["field"] == "Idempotency-Key"
    assert len(ada.get(EXECUTIONS).json()["items"]) == 1


def test_a_batch_is_taken_on_in_one_call(ada: Asker) -> None:
    items = [{"text": str(number)} for number in range(1000)]
    headers = {"Idempotency-Key": "batch-1"}
    response = ada.post(BATCH, json={"items": items, "priority": "low"}, headers=headers)
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["count"] == len(set(body["execution_ids"])) == 1000
    last = ada.get(f"{EXECUTIONS}/{body['execution_ids'][-1]}").json()
    assert (last["variables"], last["priority"]) == ({"text": "999"}, "low")
    assert last["batch_id"] == body["batch_id"]
    listed = ada.get(f"{body['_links']['self']}&status=queued").json()
    assert listed["items"], "the first are sent to the workers right after the answer"
    again = ada.post(BATCH, json={"items": items, "priority": "low"}, headers=headers)
    assert (again.headers["idempotent-replayed"], again.json()) == ("true", body)


@pytest.mark.requirement("A2")
def test_sync_mode_answers_when_it_has_ended(ada: Asker, container: CoreServices) -> None:
    answers = []
    sync = ONE | {"execution_mode": "sync"}
    asking = Thread(target=lambda: answers.append(ada.post(EXECUTE, json=sync)))
    asking.start()
    wait_until(lambda: _queued(ada), "the execution is queued")
    claimed = claim(container, _queued(ada)[0]["id"])
    finish(container, claimed, Completed({"summary": "1"}))
    asking.join(30)
    assert answers[0].status_code == 200
    body = answers[0].json()
    assert (body["status"], body["result"]) == ("completed", {"summary": "1"})
    assert body["execution_mode"] == "sync"


@pytest.mark.requirement("A2")
def test_sync_mode_is_bounded_by_the_task_s_limits(ada: Asker) -> None:
    spec = TASK["spec"] | {
        "limits": {"soft_seconds": 0.1, "hard_seconds": 0.1}, "retry": {"max_retries": 0},
    }  # fmt: skip
    ada.post("/api/v1/tasks", json=TASK | {"name": "short", "spec": spec})
    response = ada.post("/api/v1/tasks/short/execute", json=ONE | {"execution_mode": "sync"})
    assert (response.status_code, response.json()["status"]) == (202, "queued")


@pytest.mark.requirement("A2")
def test_the_flag_makes_sync_the_default(ada: Asker, container: CoreServices) -> None:
    settings = container.settings.model_copy(update={"enable_async_task_execution": False})
    other = build(settings, service="test", connections=5)
    spec = TASK["spec"] | {
        "limits": {"soft_seconds": 0.1, "hard_seconds": 0.1}, "retry": {"max_retries": 0},
    }  # fmt: skip
    ada.post("/api/v1/tasks", json=TASK | {"name": "short", "spec": spec})
    path = "/api/v1/tasks/short/execute"
    with TestClient(create_app(other)) as client:
        asker = Asker(client, ada.token)
        assert asker.post(path, json=ONE).json()["execution_mode"] == "sync"
        asked = ONE | {"execution_mode": "async"}
        assert asker.post(path, json=asked).json()["execution_mode"] == "async"
    other.close()


def _queued(ada: Asker) -> list[dict[str, str]]:
    items: list[dict[str, str]] = ada.get(f"{EXECUTIONS}?status=queued").json()["items"]
    return items


def test_an_execution_that_expires_says_when_and_then_that_it_has(
    ada: Asker, container: CoreServices
) -> None:
    by = datetime.now(UTC) + timedelta(hours=1)
    accepted = ada.post(EXECUTE, json=ONE | {"expires_at": by.isoformat()}).json()
    path = accepted["_links"]["self"]
    assert datetime.fromisoformat(ada.get(path).json()["expires_at"]) == by
    assert ada.get(f"{path}/why").json()["reasons"][-1]["code"] == "expiry"
    past = datetime.now(UTC) - timedelta(seconds=1)
    late = ada.post(EXECUTE, json=ONE | {"expires_at": past.isoformat()}).json()
    assert container.end_expired(100) == 1
    execution = ada.get(late["_links"]["self"]).json()
    assert (execution["status"], execution["error_code"]) == ("cancelled", "expired")
    assert "had not begun by" in ada.get(f"{late['_links']['self']}/why").json()["text"]
    assert ada.get(path).json()["status"] in {"pending", "queued"}
