"""Looking at executions over HTTP, cancelling and repeating them."""

from datetime import UTC, datetime, timedelta

import pytest

from celeriac.domain.executions.model import Completed
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, TASK, Asker, assert_problem
from tests.support.working import claim, finish

EXECUTIONS = "/api/v1/task-executions"
ONE = {"variables": {"text": "One."}}


def _ids(ada: Asker, query: str = "") -> list[str]:
    response = ada.get(f"{EXECUTIONS}{query}")
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json()["items"]]


def test_lists_are_filtered(ada: Asker, container: CoreServices) -> None:
    ada.post("/api/v1/tasks", json=TASK | {"name": "other"})
    first = ada.post(EXECUTE, json=ONE).json()["execution_id"]
    second = ada.post("/api/v1/tasks/other/execute", json=ONE).json()["execution_id"]
    third = ada.post(EXECUTE, json=ONE).json()["execution_id"]
    ada.post(f"{EXECUTIONS}/{third}/cancel")
    finish(container, claim(container, first), Completed(1))
    repeat = ada.post(f"{EXECUTIONS}/{first}/retry").json()["execution_id"]
    now = datetime.now(UTC)
    before, after = now - timedelta(minutes=5), now + timedelta(minutes=5)
    expected = {
        "": [repeat, third, second, first],
        "?status=completed": [first],
        "?status=queued&status=cancelled": [repeat, third, second],
        "?task=other": [second],
        "?task=summarise&status=queued": [repeat],
        f"?origin_id={first}": [repeat],
        "?trigger_type=manual": [repeat, third, second, first],
        "?trigger_type=scheduled": [],
        f"?created_after={_query(before)}&created_before={_query(after)}": [
            repeat, third, second, first,
        ],
        f"?created_after={_query(after)}": [],
        f"?created_before={_query(before)}": [],
    }  # fmt: skip
    assert {query: _ids(ada, query) for query in expected} == expected


def _query(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_pages_follow_each_other_without_gap_or_repeat(ada: Asker) -> None:
    batch = {"items": [{"text": str(number)} for number in range(25)]}
    ids = ada.post("/api/v1/tasks/summarise/execute-batch", json=batch).json()["execution_ids"]
    seen: list[str] = []
    cursor = ""
    for expected, more in ((10, True), (10, True), (5, False)):
        page = ada.get(f"{EXECUTIONS}?limit=10{cursor}").json()
        assert len(page["items"]) == expected
        assert (page["next_cursor"] is not None) is more
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]


def test_a_queued_execution_is_cancelled_at_once(ada: Asker) -> None:
    accepted = ada.post(EXECUTE, json=ONE).json()
    cancelled = ada.post(accepted["_links"]["cancel"])
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    assert cancelled.json()["cancel_requested_by"] == "ada"
    again = ada.post(accepted["_links"]["cancel"])
    assert (again.status_code, again.json()) == (200, cancelled.json()), "again changes nothing"


def test_a_running_execution_is_asked_to_stop(ada: Asker, container: CoreServices) -> None:
    accepted = ada.post(EXECUTE, json=ONE).json()
    claim(container, accepted["execution_id"])
    body = ada.post(accepted["_links"]["cancel"]).json()
    assert (body["status"], body["cancel_requested_by"]) == ("running", "ada")
    assert body["cancel_requested_at"] is not None


def test_retry_makes_a_new_execution_that_names_its_origin(
    ada: Asker, container: CoreServices
) -> None:
    accepted = ada.post(EXECUTE, json=ONE | {"priority": "high"}).json()
    retry = f"{EXECUTIONS}/{accepted['execution_id']}/retry"
    assert_problem(ada.post(retry), 409, "conflict")
    finish(container, claim(container, accepted["execution_id"]), Completed(1))
    headers = {"Idempotency-Key": "again"}
    again = ada.post(retry, headers=headers)
    assert (again.status_code, again.json()["status"]) == (202, "queued")
    assert again.json()["execution_id"] != accepted["execution_id"]
    execution = ada.get(again.json()["_links"]["self"]).json()
    assert execution["origin_id"] == accepted["execution_id"]
    assert (execution["variables"], execution["priority"]) == ({"text": "One."}, "high")
    replayed = ada.post(retry, headers=headers)
    assert replayed.json() == again.json()
    assert replayed.headers["idempotent-replayed"] == "true"


def test_events_are_numbered_without_gaps(ada: Asker, container: CoreServices) -> None:
    accepted = ada.post(EXECUTE, json=ONE).json()
    finish(container, claim(container, accepted["execution_id"]), Completed(1))
    path = accepted["_links"]["events"]
    body = ada.get(path).json()
    assert [event["seq"] for event in body["items"]] == [1, 2, 3, 4]
    assert body["next_after"] == 4
    page = ada.get(f"{path}?after=1&limit=2").json()
    assert [event["type"] for event in page["items"]] == ["queued", "started"]
    assert page["next_after"] == 3
    assert ada.get(f"{path}?after=4").json() == {"items": [], "next_after": None}


@pytest.mark.requirement("A6")
def test_a_changed_task_is_used_as_it_is_now(ada: Asker) -> None:
    task = ada.get("/api/v1/tasks/summarise").json()
    spec = task["spec"] | {"variables_schema": {}, "prompt": "{{ other }}"}
    changed = ada.patch("/api/v1/tasks/summarise", json={"spec": spec}).json()
    assert (task["version"], changed["version"]) == (1, 2)
    assert_problem(ada.post(EXECUTE, json=ONE), 422, "template_render_failed")
    assert ada.post(EXECUTE, json={"variables": {"other": 1}}).status_code == 202
    same = ada.patch("/api/v1/tasks/summarise", json={"spec": spec, "description": "New."}).json()
    assert (same["version"], same["description"]) == (2, "New."), "the same spec is no new version"
    agent = ada.get("/api/v1/agents/writer").json()
    spec = agent["spec"] | {"instructions": "Be kind."}
    assert ada.patch("/api/v1/agents/writer", json={"spec": spec}).json()["version"] == 2
    assert ada.post(EXECUTE, json={"variables": {"other": 1}}).status_code == 202


@pytest.mark.requirement("C4")
def test_an_execution_gets_another_priority(ada: Asker) -> None:
    execution_id = ada.post(EXECUTE, json=ONE | {"delay_seconds": 3600}).json()["execution_id"]
    path = f"{EXECUTIONS}/{execution_id}/prioritise"

    changed = ada.post(path, json={"priority": "critical"})
    wrong = ada.post(path, json={"priority": "urgent"})
    missing = ada.post(path, json={})

    assert (changed.status_code, changed.json()["priority"]) == (200, "critical")
    assert_problem(wrong, 422, "invalid_input")
    assert_problem(missing, 422, "invalid_input")
    assert ada.get(f"{EXECUTIONS}/{execution_id}").json()["priority"] == "critical"
    ada.post(f"{EXECUTIONS}/{execution_id}/cancel")
    assert_problem(ada.post(path, json={"priority": "low"}), 409, "conflict")
