"""Documents: agents, tasks and budgets made and changed as one file says."""

from collections.abc import Callable
from copy import deepcopy
from threading import Thread
from typing import Any

import pytest

from celeriac.domain.accounts import Role
from tests.support.api import EXECUTE, Asker, assert_problem

APPLY = "/api/v1/apply"

DOCUMENT: dict[str, Any] = {
    "agents": [
        {
            "name": "clerk",
            "description": "Sorts.",
            "spec": {"runner": "llm", "model": "local/smollm2", "temperature": 0.0},
        }
    ],
    "tasks": [
        {
            "name": "sort",
            "agent": "clerk",
            "spec": {
                "prompt": "Sort: {{ text }}",
                "variables_schema": {
                    "type": "object",
                    "properties": {"text": {"type": "string"}},
                    "required": ["text"],
                },
                "limits": {"hard_seconds": 60, "soft_seconds": 50},
                "budget": {"max_cost": "0.50"},
            },
        }
    ],
    "budgets": [{"task": "sort", "period": "day", "max_cost": 5.0, "max_tokens": 1000}],
}


def apply(asker: Asker, document: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """Apply a document and return what came of it."""
    path = f"{APPLY}?dry_run=true" if dry_run else APPLY
    answer = asker.post(path, json=document)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def actions(applied: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["kind"], each["name"], each["action"]) for each in applied["items"]]


def fields(item: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["field"]: (each["before"], each["after"]) for each in item["changes"]}


def audited(admin: Asker, resource: str) -> list[str]:
    found = admin.get(f"/api/v1/audit-logs?resource_type={resource}&limit=500").json()["items"]
    return sorted(each["action"] for each in found)


@pytest.mark.requirement("F7")
def test_a_document_makes_everything_and_a_second_time_nothing(admin: Asker) -> None:
    first = apply(admin, DOCUMENT)
    assert actions(first) == [
        ("agent", "clerk", "create"),
        ("task", "sort", "create"),
        ("budget", "sort per day", "create"),
    ]
    assert (first["created"], first["changed"], first["unchanged"]) == (3, 0, 0)
    assert fields(first["items"][0])["spec.model"] == (None, "local/smollm2")
    task = admin.get("/api/v1/tasks/sort").json()
    assert task["id"] == first["items"][1]["id"]
    assert task["agent"]["name"] == "clerk"
    assert task["spec"]["limits"]["hard_seconds"] == 60
    assert admin.get("/api/v1/budgets").json()["items"][0]["max_cost"].startswith("5")
    before = {kind: audited(admin, kind) for kind in ("agent", "task", "budget")}
    assert before == {"agent": ["agent.create"], "task": ["task.create"], "budget": ["budget.set"]}

    again = apply(admin, DOCUMENT)
    assert {each["action"] for each in again["items"]} == {"unchanged"}
    assert (again["created"], again["changed"], again["unchanged"]) == (0, 0, 3)
    assert admin.get("/api/v1/tasks/sort").json() == task
    assert {kind: audited(admin, kind) for kind in before} == before, "nothing to tell"


def test_what_differs_is_changed_and_told_field_by_field(admin: Asker) -> None:
    apply(admin, DOCUMENT)
    document = deepcopy(DOCUMENT)
    document["agents"][0]["spec"] = {"runner": "llm", "model": "openai/gpt-5-mini"}
    document["tasks"][0]["spec"]["limits"]["hard_seconds"] = 90
    document["tasks"][0]["spec"]["variables_schema"]["properties"]["text"]["minLength"] = 1
    document["tasks"][0]["active"] = False
    document["budgets"][0]["max_cost"] = "7.5"
    changed = apply(admin, document)
    agent, task, budget = changed["items"]
    assert fields(agent) == {
        "spec.model": ("local/smollm2", "openai/gpt-5-mini"),
        "spec.temperature": (0, None),
    }
    assert fields(task) == {
        "active": (True, False),
        "spec.limits.hard_seconds": (60, 90),
        "spec.variables_schema.properties.text.minLength": (None, 1),
    }
    assert fields(budget) == {"max_cost": ("5", "7.5")}
    assert (agent["version"], task["version"]) == (2, 2)
    assert admin.get("/api/v1/agents/clerk").json()["description"] == "Sorts."
    assert "agent.change" in audited(admin, "agent")
    assert apply(admin, document)["unchanged"] == 3


def test_another_order_of_the_properties_of_a_schema_is_a_change(admin: Asker) -> None:
    def ordered(*names: str) -> dict[str, Any]:
        document = deepcopy(DOCUMENT)
        properties = {name: {"type": "string"} for name in names}
        schema = {"type": "object", "properties": properties}
        document["tasks"][0]["spec"]["output_schema"] = schema
        return document

    apply(admin, ordered("reason", "fit"))
    assert apply(admin, ordered("reason", "fit"))["changed"] == 0
    _, task, _ = apply(admin, ordered("fit", "reason"))["items"]
    expected = {"spec.output_schema.properties": (["reason", "fit"], ["fit", "reason"])}
    assert (fields(task), task["version"]) == (expected, 2)
    stored = admin.get("/api/v1/tasks/sort").json()["spec"]["output_schema"]
    assert [*stored["properties"]] == ["fit", "reason"]


def test_what_a_document_leaves_out_stays(admin: Asker) -> None:
    apply(admin, DOCUMENT)
    admin.patch("/api/v1/tasks/sort", json={"active": False})
    apply(admin, {"tasks": [{"name": "sort", "agent": "clerk", "description": "Sorts."}]})
    task = admin.get("/api/v1/tasks/sort").json()
    assert not task["active"], "switched off by hand, and not named in the file"
    assert task["spec"]["prompt"] == "Sort: {{ text }}"
    assert (task["version"], task["description"]) == (1, "Sorts.")


def test_a_dry_run_tells_the_same_and_writes_nothing(admin: Asker) -> None:
    planned = apply(admin, DOCUMENT, dry_run=True)
    assert planned["dry_run"] is True
    assert admin.get("/api/v1/agents").json()["items"] == []
    assert audited(admin, "agent") == []
    done = apply(admin, DOCUMENT)
    for plan, outcome in zip(planned["items"], done["items"], strict=True):
        assert plan["id"] is None
        assert {**outcome, "id": None, "version": None} == plan
    document = deepcopy(DOCUMENT)
    document["tasks"][0]["spec"]["prompt"] = "Sort this: {{ text }}"
    planned = apply(admin, document, dry_run=True)
    assert actions(planned)[1] == ("task", "sort", "change")
    assert admin.get("/api/v1/tasks/sort").json()["version"] == 1


def test_every_fault_is_named_and_nothing_is_written(admin: Asker) -> None:
    document = deepcopy(DOCUMENT)
    document["agents"].append(deepcopy(document["agents"][0]))
    document["tasks"] += [
        {"name": "lost", "agent": "nobody"},
        {"name": "bad", "agent": "clerk", "spec": {"prompt": "{% include 'x' %}"}},
        {
            "name": "worse",
            "agent": "clerk",
            "spec": {
                "variables_schema": {"type": "nothing"},
                "output_schema": {"type": 1},
                "prompt": "{{ a",
            },
        },
    ]
    document["budgets"] += [
        {"task": "sort", "period": "day", "max_tokens": 5},
        {"task": "nothing", "period": "day", "max_tokens": 5},
    ]
    body = assert_problem(admin.post(APPLY, json=document), 422, "document_invalid")
    assert [each["field"] for each in body["fields"]] == [
        "agents.1.name",
        "tasks.1.agent",
        "tasks.2.spec.prompt",
        "tasks.3.spec.variables_schema",
        "tasks.3.spec.output_schema",
        "tasks.3.spec.prompt",
        "budgets.1",
        "budgets.2.task",
    ]
    for path in ("agents", "tasks", "budgets"):
        assert admin.get(f"/api/v1/{path}").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"agents": [{"name": "a b", "spec": {"runner": "llm", "model": "x/y"}}]}, "agents.0.name"),
        (
            {"agents": [{"name": "a", "spec": {"runner": "llm", "modle": "x/y"}}]},
            "agents.0.spec.model",
        ),
        ({"agents": [{"name": "a"}]}, "agents.0.spec"),
        ({"tasks": [{"name": "t", "agent": "a", "active": "no"}]}, "tasks.0.active"),
        ({"tasks": [{"name": 7, "agent": "a"}]}, "tasks.0.name"),
        ({"task": []}, "task"),
        ({"budgets": [{"task": "t", "period": "day"}]}, "budgets.0"),
        ({"agents": None}, "agents"),
    ],
)
def test_the_shape_is_checked(admin: Asker, change: dict[str, Any], field: str) -> None:
    body = assert_problem(admin.post(APPLY, json=change), 422, "invalid_input")
    assert field in [each["field"] for each in body["fields"]]


def test_who_may_apply_what(admin: Asker, person: Callable[..., Asker]) -> None:
    viewer, operator = person("vera", Role.VIEWER), person("olaf")
    assert_problem(viewer.post(f"{APPLY}?dry_run=true", json=DOCUMENT), 403, "forbidden")
    me = operator.get("/api/v1/me").json()["id"]
    budget = {"budgets": [{"user_id": me, "period": "month", "max_tokens": 9}]}
    assert_problem(operator.post(APPLY, json=budget), 403, "forbidden")
    assert actions(apply(admin, budget)) == [("budget", f"user {me} per month", "create")]
    apply(operator, DOCUMENT)
    apply(admin, DOCUMENT)
    assert len(admin.get("/api/v1/agents").json()["items"]) == 1, "names are each workspace's own"
    unknown = {"budgets": [{"user_id": str(operator.get("/api/v1/tasks/sort").json()["id"]),
                            "period": "month", "max_tokens": 9}]}  # fmt: skip
    body = assert_problem(admin.post(APPLY, json=unknown), 422, "document_invalid")
    assert body["field"] == "budgets.0.user_id"


def test_a_large_document_is_applied_and_one_over_the_limit_is_not(admin: Asker) -> None:
    spec = DOCUMENT["tasks"][0]["spec"]
    tasks = [{"name": f"sort-{n}", "agent": "clerk", "spec": spec} for n in range(500)]
    document = {"agents": DOCUMENT["agents"], "tasks": tasks}
    assert apply(admin, document)["created"] == 501
    assert apply(admin, document)["unchanged"] == 501
    document["tasks"] = [*tasks, {"name": "more", "agent": "clerk", "spec": spec}]
    body = assert_problem(admin.post(APPLY, json=document), 422, "invalid_input")
    assert body["field"] == "tasks"


def test_two_at_once_are_applied_one_after_the_other(admin: Asker) -> None:
    documents = [
        {"agents": [{**DOCUMENT["agents"][0], "name": f"clerk-{n}"} for n in order]}
        for order in (range(30), reversed(range(30)))
    ]
    created: list[int] = []
    threads = [
        Thread(target=lambda each=each: created.append(apply(admin, each)["created"]))
        for each in documents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [0, 30]


def test_an_agent_that_is_named_by_its_id_is_the_same_agent(ada: Asker) -> None:
    task = ada.get("/api/v1/tasks/summarise").json()
    named = {"tasks": [{"name": "summarise", "agent": task["agent"]["id"]}]}
    assert apply(ada, named)["unchanged"] == 1
    apply(ada, {**DOCUMENT, "tasks": [{"name": "summarise", "agent": "clerk"}], "budgets": []})
    assert ada.get("/api/v1/tasks/summarise").json()["agent"]["name"] == "clerk"
    assert ada.post(EXECUTE, json={"variables": {"text": "a"}}).status_code == 202
