"""Limits, rates and debounce by key of tasks over HTTP."""

from typing import Any

import pytest

from celeriac.domain.executions.model import Completed
from celeriac.wiring.core import CoreServices
from tests.support.api import TASK, Asker, assert_problem
from tests.support.working import claim, finish

pytestmark = pytest.mark.requirement("F13")


def limited(ada: Asker, **spec: Any) -> str:
    """Create a task with limits; return the path that runs it."""
    body = TASK | {"name": "limited", "spec": TASK["spec"] | spec}
    response = ada.post("/api/v1/tasks", json=body)
    assert response.status_code == 201, response.text
    assert {name: response.json()["spec"][name] for name in spec}
    return "/api/v1/tasks/limited/execute"


def submit(ada: Asker, path: str, text: str = "a") -> dict[str, Any]:
    response = ada.post(path, json={"variables": {"text": text}})
    assert response.status_code == 202, response.text
    shown: dict[str, Any] = ada.get(response.json()["_links"]["self"]).json()
    return shown


def test_one_waits_for_the_other_and_says_so(ada: Asker, container: CoreServices) -> None:
    path = limited(ada, concurrency=[{"key": "variables.text", "max": 1}])
    first, second = submit(ada, path), submit(ada, path)
    assert (first["status"], first["held"], first["limit_keys"]) == ("queued", None, ["a"])
    assert (second["status"], second["held"]) == ("pending", "limit")
    reason = ada.get(f"{second['_links']['self']}/why").json()["reasons"][0]
    assert (reason["code"], reason["subject"]["id"]) == ("limit", first["id"])

    finish(container, claim(container, first["id"]), Completed("done"))
    container.limits.some(100)

    assert ada.get(second["_links"]["self"]).json()["held"] is None


def test_cancel_new_is_a_conflict_that_names_the_holder(ada: Asker) -> None:
    path = limited(ada, concurrency=[{"key": "variables.text", "max": 1, "policy": "cancel_new"}])
    first = submit(ada, path)
    refused = ada.post(path, json={"variables": {"text": "a"}})
    assert_problem(refused, 409, "limit_reached")
    assert refused.json()["details"]["execution_id"] == first["id"]
    assert submit(ada, path, "b")["held"] is None


def test_a_rate_and_a_debounce(ada: Asker) -> None:
    path = limited(
        ada,
        rates=[{"key": "'all'", "max": 1, "seconds": 3600}],
        debounce={"key": "variables.text", "seconds": 60},
    )
    first, second = submit(ada, path), submit(ada, path)
    earlier = ada.get(first["_links"]["self"]).json()
    assert (earlier["status"], earlier["error_code"]) == ("cancelled", "superseded")
    assert (second["held"], second["options"]["replaced"]) == ("time", 1)
    assert second["limit_keys"] == ["rate:all"]


def test_a_key_is_checked_with_the_task_and_with_the_variables(ada: Asker) -> None:
    wrong = TASK | {"name": "w", "spec": {"concurrency": [{"key": "varables.text", "max": 1}]}}
    refused = ada.post("/api/v1/tasks", json=wrong)
    assert_problem(refused, 422, "invalid_input")
    assert refused.json()["field"] == "spec.concurrency.0.key"
    key = [{"key": "variables.other", "max": 1}]
    known = {"type": "object", "properties": {"text": {}, "other": {}}}
    path = limited(ada, concurrency=key, variables_schema=known)
    refused = ada.post(path, json={"variables": {"text": "a"}})
    assert_problem(refused, 422, "input_invalid")
    assert refused.json()["field"] == "concurrency.0.key"
