"""Workflows of documents: made, changed and checked together with the tasks that they run."""

from copy import deepcopy
from typing import Any

import pytest

from tests.integration.api.test_apply import DOCUMENT, actions, apply, audited, fields
from tests.support.api import Asker, assert_problem

FLOW: dict[str, Any] = {
    "workflow": "flow",
    "description": "Sorts twice.",
    "input": {"text": "string"},
    "steps": {
        "sorting": {"task": "sort", "with": {"text": "${{ input.text }}"}},
        "again": {"task": "sort", "with": {"text": "${{ steps.sorting.result }}"}, "retry": 1},
        "a": {"workflow": "inner", "with": {"text": "${{ steps.again.result }}"}},
    },
    "returns": "${{ steps.a.result }}",
}
INNER: dict[str, Any] = {
    "workflow": "inner",
    "input": {"text": "string"},
    "steps": {"sort": {"task": "sort", "with": {"text": "${{ input.text }}"}}},
}
WHOLE = {**DOCUMENT, "workflows": [FLOW, INNER]}


@pytest.mark.requirement("F7")
def test_workflows_are_made_with_the_tasks_of_the_same_document(admin: Asker) -> None:
    planned = apply(admin, WHOLE, dry_run=True)
    assert actions(planned)[-2:] == [
        ("workflow", "flow", "create"),
        ("workflow", "inner", "create"),
    ]
    assert admin.get("/api/v1/workflows").json()["items"] == []
    first = apply(admin, WHOLE)
    assert actions(first) == actions(planned)
    stored = admin.get("/api/v1/workflows/flow").json()
    assert (stored["id"], stored["version"]) == (first["items"][-2]["id"], 1)
    assert stored["description"] == "Sorts twice."
    assert list(stored["spec"]["steps"]) == ["sorting", "again", "a"], (
        "in the order of the document"
    )
    assert audited(admin, "workflow") == ["workflow.create"] * 2
    assert apply(admin, WHOLE)["unchanged"] == 5

    changed = deepcopy(WHOLE)
    changed["workflows"][0]["steps"]["again"]["retry"] = 2
    del changed["workflows"][0]["description"]
    outcome = apply(admin, changed)["items"][-2]
    assert (outcome["action"], outcome["version"]) == ("change", 2)
    assert fields(outcome) == {"spec.steps.again.retry.max_retries": (1, 2)}
    assert admin.get("/api/v1/workflows/flow").json()["description"] == "Sorts twice."


def test_workflows_use_stored_tasks_too(admin: Asker) -> None:
    apply(admin, DOCUMENT)
    assert apply(admin, {"workflows": [INNER]})["created"] == 1
    assert apply(admin, {"workflows": [{**FLOW, "workflow": "other"}]})["created"] == 1


def test_every_fault_of_every_workflow_is_named_and_nothing_is_written(admin: Asker) -> None:
    document = deepcopy(WHOLE)
    flow, inner = document["workflows"]
    flow["steps"]["again"]["with"] = {"txt": 1}
    flow["steps"]["a"]["workflow"] = "iner"
    inner["steps"]["sort"]["when"] = "input.txet == ''"
    inner["steps"]["sort"]["retrys"] = 1
    document["workflows"] += [{**INNER}, {"workflow": "empty"}]
    document["tasks"].append({"name": "lost", "agent": "nobody"})
    body = assert_problem(admin.post("/api/v1/apply", json=document), 422, "document_invalid")
    assert [each["field"] for each in body["fields"]] == [
        "workflows.2.workflow",
        "tasks.1.agent",
        "workflows.1.steps.sort.retrys",
        "workflows.1.steps.sort.when",
        "workflows.3.steps",
        "workflows.0.steps.again.with",
        "workflows.0.steps.a.workflow",
    ]
    assert admin.get("/api/v1/tasks").json()["items"] == []


def test_a_limit_whose_key_is_not_known_before_the_run_is_refused_here_too(admin: Asker) -> None:
    limited = {**INNER, "limits": [{"key": "run.id", "max": 1}]}
    document = {**DOCUMENT, "workflows": [limited]}
    body = assert_problem(admin.post("/api/v1/apply", json=document), 422, "document_invalid")
    assert [each["field"] for each in body["fields"]] == ["workflows.0.limits.0.key"]
    assert admin.get("/api/v1/tasks").json()["items"] == []
