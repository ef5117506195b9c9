"""`celeriac.testing`: tasks of a project's file, and functions with the tasks that they run."""

import json
from pathlib import Path
from typing import Any

import pytest

from celeriac import AgentContext, ChildFailedError, PermanentError
from celeriac import agent as agent_function
from celeriac.domain.errors import InvalidInputError, VariablesInvalidError
from celeriac.testing import CassetteMismatchError, run_agent, run_function, run_task
from tests.support.agent_functions import greet, score
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer

PROJECT = """
agents:
- name: writer
  spec: {runner: llm, model: openai/model}
tasks:
- name: write
  agent: writer
  spec: {prompt: "{{ scene }}"}
- name: lost
  agent: nobody
"""
AGENT = {"runner": "llm", "model": "openai/model"}


@agent_function("testing-parent", durable=True)
async def parent(ctx: AgentContext, names: list[str]) -> dict[str, Any]:
    first = await ctx.run("judge", {"name": names[0]})
    others = await ctx.map("judge", [{"name": name} for name in names[1:]], return_errors=True)
    return {"first": first, "others": [str(each) for each in others]}


@agent_function("testing-shouter", durable=True)
def shouter(ctx: Any, name: str) -> str:
    return str(ctx.run("judge", {"name": name})).upper()


def judge(task: str, variables: dict[str, Any]) -> Any:
    assert task == "judge"
    if variables["name"] == "Mallory":
        raise PermanentError("Mallory can't be judged.")
    return f"{variables['name']} is good"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project.yaml").write_text(PROJECT)
    return tmp_path / "project.yaml"


def test_a_task_of_a_project_is_recorded_and_replayed(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", model_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    file = project.with_name("plain.jsonl")
    first = run_task(project, "write", {"scene": "plain"}, file, record=True)
    again = run_task(project, "write", {"scene": "plain"}, file)
    assert (first.result, again.result) == ("Hello there, friend.",) * 2
    assert len(model_server.received) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing", r"project.yaml has no task 'nothing'"), ("lost", "has no agent 'nobody'")],
)
def test_what_a_project_does_not_have_is_named(project: Path, name: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        run_task(project, name, {"scene": "plain"})


def test_a_project_that_is_no_yaml_is_named_with_its_line(project: Path) -> None:
    project.write_text("tasks: [")
    with pytest.raises(InvalidInputError, match=r"project.yaml:\d"):
        run_task(project, "write", {})


def test_without_a_cassette_no_model_is_asked(model_server: ModelServer) -> None:
    with pytest.raises(CassetteMismatchError):
        run_agent(AGENT, {"prompt": "plain"}, {})
    assert model_server.received == []


def test_a_recording_needs_a_file() -> None:
    with pytest.raises(InvalidInputError, match="Name the file"):
        run_agent(AGENT, {"prompt": "plain"}, {}, record=True)


def test_a_function_runs_by_itself() -> None:
    assert run_function(greet, {"name": "Ada"}).result["key"].endswith(":mail")
    assert run_function(score, {"lead": {"company": "ACME", "size": 21}}).result["score"] == 42
    with pytest.raises(VariablesInvalidError, match="name is missing"):
        run_function(greet, {})


def test_a_function_that_is_no_agent_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="judge is no agent; decorate it"):
        run_function(judge, {})


def test_children_stand_in_for_other_tasks() -> None:
    run = run_function(parent, {"names": ["Ada", "Bob", "Mallory"]}, children=judge)
    assert run.result["first"] == "Ada is good"
    assert run.result["others"][0] == "Bob is good"
    assert "Mallory can't be judged" in run.result["others"][1]
    assert run_function(shouter, {"name": "Ada"}, children=judge).result == "ADA IS GOOD"


def test_a_failed_child_fails_its_parent() -> None:
    with pytest.raises(ChildFailedError, match="Mallory can't be judged"):
        run_function(parent, {"names": ["Mallory"]}, children=judge)


def test_a_run_without_children_says_what_to_give() -> None:
    with pytest.raises(PermanentError, match="children"):
        run_function(parent, {"names": ["Ada"]})


def test_a_result_of_a_child_is_json() -> None:
    def tuples(_: str, variables: dict[str, Any]) -> Any:
        return (variables["name"], 1)

    run = run_function(parent, {"names": ["Ada"]}, children=tuples)
    assert run.result["first"] == json.loads('["Ada", 1]')
