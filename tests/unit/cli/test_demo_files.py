"""The demo's files are valid requests about texts that fit."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from celeriac.api.v1.catalog import NewAgent, NewTask
from celeriac.domain.agents import LlmAgent
from celeriac.domain.prompts import compiled
from celeriac.domain.schemas import check_schema
from celeriac.domain.workflows.document import check
from celeriac.domain.workflows.graph import Graph
from celeriac.services.catalog.schemas import check_variables

DEMO = Path(__file__).parents[3] / "examples" / "demo"
INPUTS = sorted((DEMO / "inputs").glob("*.txt"))


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    return tomllib.loads((DEMO / "demo.toml").read_text())


def test_agents_use_the_local_model(demo: dict[str, Any]) -> None:
    agents = [NewAgent.model_validate(each) for each in demo["agents"]]

    assert [agent.name for agent in agents] == ["demo-writer", "demo-sorter"]
    for agent in agents:
        assert isinstance(agent.spec, LlmAgent)
        assert agent.spec.model == "local/smollm2"


def test_tasks_name_these_agents_and_have_valid_schemas(demo: dict[str, Any]) -> None:
    tasks = [NewTask.model_validate(each) for each in demo["tasks"]]

    assert {task.agent for task in tasks} == {each["name"] for each in demo["agents"]}
    for task in tasks:
        check_schema(task.spec.variables_schema, field="variables_schema")
        check_schema(task.spec.output_schema or {}, field="output_schema")


def test_there_are_enough_texts_of_a_size_that_a_small_model_reads() -> None:
    assert len(INPUTS) >= 6
    for path in INPUTS:
        assert 60 <= len(path.read_text().split()) <= 150, path.name


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.stem)
def test_each_text_fits_each_task_that_reads_one(demo: dict[str, Any], path: Path) -> None:
    variables = {"text": path.read_text()}
    specs = [NewTask.model_validate(each).spec for each in demo["tasks"]]
    readers = [spec for spec in specs if "text" in spec.variables_schema["properties"]]
    assert len(readers) == 2
    for spec in readers:
        check_variables(spec.variables_schema, variables)
        assert variables["text"].strip() in compiled(spec.prompt).render(variables)


def test_the_workflow_is_a_map_over_the_texts_and_a_step_that_needs_it(
    demo: dict[str, Any],
) -> None:
    [document] = demo["workflows"]
    workflow, faults = check(document)
    assert workflow is not None, faults
    steps = workflow.spec.steps
    assert [step.map is not None for step in steps.values()] == [True, False]
    assert Graph.of(workflow.spec).needs["note"] == ("sort",)
    assert {step.target for step in steps.values()} <= {each["name"] for each in demo["tasks"]}


def test_the_note_of_the_workflow_reads_what_the_sorter_returns(demo: dict[str, Any]) -> None:
    [note] = [each for each in demo["tasks"] if each["name"] == "demo-note"]
    spec = NewTask.model_validate(note).spec
    variables = {"messages": [{"category": "billing", "urgency": "high", "summary": "Twice."}]}
    check_variables(spec.variables_schema, variables)
    assert "- billing: Twice." in compiled(spec.prompt).render(variables)
