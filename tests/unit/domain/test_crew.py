"""Crew graphs: what is refused, in which words, and what is rendered."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from celeriac.domain.agents import AgentSpec, CrewaiAgent
from celeriac.domain.crews import CrewGraph
from celeriac.domain.errors import TemplateRenderError

MODEL = "local/smollm2"


def agent(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "role": name.title(), "goal": "Do well.", "model": MODEL, **more}


def task(name: str, *context: str, **more: Any) -> dict[str, Any]:
    base = {"id": name, "description": "Do it.", "expected_output": "A text.", "agent": "writer"}
    return {**base, "context": list(context), **more}


def crew(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"agents": [agent("writer")], "tasks": list(tasks), **more}


def faults_of(graph: dict[str, Any]) -> list[str]:
    try:
        sound = CrewGraph.model_validate(graph)
    except ValidationError as error:
        (fault,) = error.errors()
        assert fault["type"] == "crew_graph", fault
        found = fault["ctx"]["faults"]
        assert all(each in fault["msg"] for each in found)
        return list(found)
    return [str(fault) for fault in sound.check()]


def test_a_sound_graph_is_accepted_and_stays_itself_over_json() -> None:
    graph = CrewGraph.model_validate(
        crew(task("plan"), task("draft", "plan"), task("end", "draft"))
    )
    assert CrewGraph.model_validate(graph.model_dump(mode="json")) == graph
    spec = CrewaiAgent(crew=graph)
    stored = spec.model_dump(mode="json")
    assert TypeAdapter[AgentSpec](AgentSpec).validate_python(stored) == spec


@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    ("graph", "fault"),
    [
        (
            crew(task("a", agent="nobody")),
            "tasks.a: agent names 'nobody', but the crew has no such",
        ),
        (crew(task("a", "ghost")), "tasks.a: context names 'ghost', but the crew has no such task"),
        (crew(task("a", agent=None)), "tasks.a: the task has no agent; name one of 'writer'"),
        (crew(task("a"), task("a")), "tasks.a: 2 tasks have this id"),
        (
            {"agents": [agent("writer")] * 3, "tasks": [task("a")]},
            "agents.writer: 3 agents have this id",
        ),
        (
            crew(task("a", "c"), task("b", "a"), task("c", "b")),
            "tasks.a: the tasks wait for each other: 'a' needs 'c' needs 'b' needs 'a'",
        ),
        (crew(task("a", "a")), "tasks.a: the tasks wait for each other: 'a' needs 'a'"),
        (crew(task("a"), task("b")), "tasks.a: the task is unreachable"),
        (crew(task("b", "a"), task("a")), "tasks.b: its context 'a' comes later in the list"),
        (
            {"agents": [agent("writer"), agent("idler")], "tasks": [task("a")]},
            "agents.idler: no task names this agent",
        ),
        (crew(), "tasks: the crew has no tasks"),
        (crew(task("a", description="{{ x")), "tasks.a.description: The prompt template is wrong"),
        (crew(task("a", output_schema={"type": 3})), "tasks.a: output_schema is not a valid JSON"),
        (crew(task("a"), manager_model=MODEL), "a sequential crew has no manager"),
        (crew(task("a"), process="hierarchical"), "a hierarchical crew needs a manager_model"),
        (
            crew(task("a"), process="hierarchical", manager_agent="boss"),
            "manager_agent names 'boss', but the crew has no such agent; it has 'writer'",
        ),
        (
            crew(task("a"), process="hierarchical", manager_agent="writer"),
            "tasks.a: 'writer' is the manager",
        ),
        (
            crew(task("a", agent=None), process="hierarchical", manager_agent="writer"),
            "agents.writer: a manager needs other agents",
        ),
    ],
)
def test_each_fault_names_its_node_and_the_cure(graph: dict[str, Any], fault: str) -> None:
    found = faults_of(graph)
    assert any(each.startswith(fault) for each in found), found


def test_all_faults_are_told_at_once() -> None:
    found = faults_of(crew(task("a", agent="x"), task("b", "ghost", agent=None)))
    assert [each.partition(":")[0] for each in found] == ["tasks.a", "tasks.b", "tasks.b"]


def test_a_manager_may_choose_among_agents_that_no_task_names() -> None:
    graph = {
        "agents": [agent("writer"), agent("critic")],
        "tasks": [task("a", agent=None)],
        "process": "hierarchical",
        "manager_model": MODEL,
    }
    assert faults_of(graph) == []
    graph["tasks"] = [task("a")]
    assert faults_of(graph)[0].startswith("agents.critic")


def test_whom_an_agent_may_delegate_to_is_used() -> None:
    graph = {
        "agents": [agent("writer", allow_delegation=True), agent("helper")],
        "tasks": [task("a")],
    }
    assert faults_of(graph) == []


def test_templates_are_rendered_with_the_variables_and_the_prompt() -> None:
    graph = CrewGraph.model_validate(
        {
            "agents": [agent("writer", goal="Know {{ topic }}.")],
            "tasks": [task("a", description="{{ prompt }} Write of {{ topic }}.")],
        }
    )
    assert graph.variables == {"topic", "prompt"}
    made = graph.render({"topic": "roots"}, "Be brief.")
    assert made.agents[0].goal == "Know roots."
    assert made.tasks[0].description == "Be brief. Write of roots."
    with pytest.raises(TemplateRenderError, match=r"agents\.writer\.goal.*'topic' is undefined"):
        graph.render({})


@st.composite
def sound_graphs(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 8))
    tasks = []
    for index in range(count):
        earlier = draw(st.sets(st.integers(0, index - 1))) if index else set()
        tasks.append(task(f"t{index}", *(f"t{each}" for each in sorted(earlier))))
    fed = {source for each in tasks for source in each["context"]}
    last = tasks[-1]["context"]
    last.extend(each["id"] for each in tasks[:-1] if each["id"] not in fed)
    return crew(*tasks)


@given(sound_graphs())
def test_every_graph_whose_outputs_flow_to_its_end_is_accepted(graph: dict[str, Any]) -> None:
    assert faults_of(graph) == []


@given(sound_graphs(), st.data())
def test_an_edge_back_is_always_refused(graph: dict[str, Any], data: st.DataObject) -> None:
    tasks = copy.deepcopy(graph["tasks"])
    late = data.draw(st.integers(0, len(tasks) - 1))
    early = data.draw(st.integers(0, late))
    tasks[early]["context"] = [*tasks[early]["context"], tasks[late]["id"]]
    found = faults_of(crew(*tasks))
    assert any("wait for each other" in each or "comes later" in each for each in found), found


@given(sound_graphs(), st.data())
def test_a_task_that_feeds_nobody_is_always_unreachable(
    graph: dict[str, Any], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(graph["tasks"]) - 1))
    tasks = [*graph["tasks"]]
    tasks.insert(place, task("lonely"))
    (fault,) = faults_of(crew(*tasks))
    assert fault.startswith("tasks.lonely: the task is unreachable")
