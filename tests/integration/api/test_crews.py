"""Crews over HTTP: faults of a graph by node, and what its templates lack."""

import pytest

from tests.support.api import Asker, assert_problem
from tests.support.crews import agent, crew, task

AGENTS = "/api/v1/agents"


@pytest.mark.requirement("C1")
def test_a_faulty_graph_is_refused_with_each_fault_and_its_node(ada: Asker) -> None:
    graph = crew(task("a", "plan", "b"), task("b", "plan", "a", agent=None))
    body = {"name": "newsroom", "spec": {"runner": "crewai", "crew": graph}}

    problem = assert_problem(ada.post(AGENTS, json=body), 422, "invalid_input")

    assert problem["field"] == "spec.crew"
    assert "tasks.a: the tasks wait for each other: 'a' needs 'b' needs 'a'" in problem["detail"]
    assert "tasks.b: the task has no agent; name one of 'planner'" in problem["detail"]

    graph["agents"][0].pop("role")
    problem = assert_problem(ada.post(AGENTS, json=body), 422, "invalid_input")
    assert problem["field"] == "spec.crew.agents.0.role"


@pytest.mark.requirement("C1")
def test_a_crew_is_stored_and_lacks_no_variable_when_it_is_submitted(ada: Asker) -> None:
    graph = {
        "agents": [agent("planner", goal="Know {{ topic }}. {{ prompt }}")],
        "tasks": [task("a", "plan")],
    }
    body = {"name": "newsroom", "spec": {"runner": "crewai", "crew": graph}}
    made = ada.post(AGENTS, json=body)
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["crew"]["tasks"][0]["description"] == "plan it"
    assert ada.post("/api/v1/tasks", json={"name": "n", "agent": "newsroom"}).status_code == 201

    refused = ada.post("/api/v1/tasks/n/execute", json={})
    problem = assert_problem(refused, 422, "template_render_failed")
    assert "agents.planner.goal" in problem["detail"]
    assert "'topic' is undefined" in problem["detail"]

    items = {"items": [{"topic": "a"}, {}]}
    problem = assert_problem(
        ada.post("/api/v1/tasks/n/execute-batch", json=items), 422, "template_render_failed"
    )
    assert problem["field"] == "items.1"
    accepted = ada.post("/api/v1/tasks/n/execute", json={"variables": {"topic": "roots"}})
    assert accepted.status_code == 202
