"""Templates and schemas over HTTP: what costs too much is refused by its name, and not repeated."""

from typing import Any

import pytest

from celeriac.domain.approvals import Question, QuestionKind
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.asking import park
from tests.support.crews import agent, crew, task
from tests.support.stall_bombs import fanned

TASKS = "/api/v1/tasks"
SECRET = "HUNTERSECRET"


@pytest.mark.requirement("A6")
@pytest.mark.parametrize(
    ("field", "value", "code", "named"),
    [
        ("prompt", "a\n{{ 1|round(99) }}", "template_invalid", "prompt"),
        ("prompt", "{{ 'a' * 1000000 }}", "template_invalid", "prompt"),
        ("prompt", "{{ " + "9" * 5_000 + " }}", "template_invalid", "prompt"),
        ("prompt", "{% for a in b %}" * 120 + "{% endfor %}" * 120, "template_invalid", "prompt"),
        ("variables_schema", fanned(30), "schema_invalid", "spec.variables_schema"),
        ("output_schema", fanned(30), "schema_invalid", "spec.output_schema"),
        ("output_schema", {"pattern": "(a{999}){999}"}, "schema_invalid", "spec.output_schema"),
        ("output_schema", {"$ref": "https://example.com/"}, "schema_invalid", "spec.output_schema"),
    ],
)
def test_what_costs_too_much_is_refused_when_the_task_is_made_or_changed(
    ada: Asker, field: str, value: object, code: str, named: str
) -> None:
    body = {"name": "bomb", "agent": "writer", "spec": {field: value}}
    problem = assert_problem(ada.post(TASKS, json=body), 422, code)
    assert problem["field"] == named
    problem = assert_problem(
        ada.patch(f"{TASKS}/summarise", json={"spec": {field: value}}), 422, code
    )
    assert problem["field"] == named
    assert ada.get(f"{TASKS}/bomb").status_code == 404


@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"description": "{{ 1|round(99) }}"}, "tasks.a.description"),
        ({"output_schema": fanned(30)}, "tasks.a: output_schema"),
    ],
)
def test_a_crew_s_texts_and_schemas_are_bounded_as_well(
    ada: Asker, more: dict[str, Any], named: str
) -> None:
    graph = {"agents": [agent("planner")], "tasks": [{**task("a", "planner"), **more}]}
    body = {"name": "newsroom", "spec": {"runner": "crewai", "crew": graph}}
    problem = assert_problem(ada.post("/api/v1/agents", json=body), 422, "invalid_input")
    assert problem["field"] == "spec.crew"
    assert named in problem["detail"]
    sound = {"runner": "crewai", "crew": crew(task("a", "planner"))}
    assert ada.post("/api/v1/agents", json={"name": "n", "spec": sound}).status_code == 201
    refused = ada.patch("/api/v1/agents/n", json={"spec": body["spec"]})
    assert_problem(refused, 422, "invalid_input")


def test_the_templates_of_a_crew_have_a_limit_together(ada: Asker) -> None:
    texts = [
        {**task(f"t{n}", "planner", *([f"t{n - 1}"] if n else [])), "description": "{{ a }}" * 500}
        for n in range(20)
    ]
    graph = {"agents": [agent("planner")], "tasks": texts}
    body = {"name": "newsroom", "spec": {"runner": "crewai", "crew": graph}}
    problem = assert_problem(ada.post("/api/v1/agents", json=body), 422, "invalid_input")
    assert "words and signs together" in problem["detail"]


def test_a_refusal_repeats_no_value_and_stays_small(ada: Asker) -> None:
    schema = {
        "properties": {"password": {"type": "integer"}, "list": {"items": {"type": "integer"}}}
    }
    spec = {"prompt": "Be strict.", "variables_schema": schema}
    body = {"name": "strict", "agent": "writer", "spec": spec}
    assert ada.post(TASKS, json=body).status_code == 201
    for variables in (
        {"password": SECRET},
        {"password": SECRET * 200_000},
        {"list": [SECRET] * 5_000},
    ):
        refused = ada.post(f"{TASKS}/strict/execute", json={"variables": variables})
        problem = assert_problem(refused, 422, "variables_invalid")
        assert SECRET not in refused.text
        assert len(refused.content) < 10_000
        assert next(iter(variables)) in problem["detail"]


def test_a_refused_answer_repeats_no_value(ada: Asker, container: CoreServices) -> None:
    execution = ada.post(EXECUTE, json={"variables": {"text": "x"}}).json()["execution_id"]
    schema = {"properties": {"pin": {"type": "integer"}}}
    park(container, execution, Question(key="f", kind=QuestionKind.FORM, title="?", schema=schema))
    (asked,) = ada.get(f"/api/v1/approvals?execution_id={execution}").json()["items"]
    body = {"approved": True, "value": {"pin": SECRET}}
    refused = ada.post(asked["_links"]["answer"], json=body)
    problem = assert_problem(refused, 422, "answer_invalid")
    assert problem["field"] == "value.pin"
    assert SECRET not in refused.text


def test_a_batch_has_a_budget_for_all_its_items(ada: Asker) -> None:
    heavy = "{% for a in range(3000) %}{{ a }}{{ a }}{% endfor %}"
    body = {"name": "heavy", "agent": "writer", "spec": {"prompt": heavy}}
    assert ada.post(TASKS, json=body).status_code == 201
    one = ada.post(f"{TASKS}/heavy/execute-batch", json={"items": [{}] * 3})
    assert one.status_code == 202, one.text
    many = ada.post(f"{TASKS}/heavy/execute-batch", json={"items": [{}] * 300})
    problem = assert_problem(many, 422, "template_render_failed")
    assert problem["field"].startswith("items.")
