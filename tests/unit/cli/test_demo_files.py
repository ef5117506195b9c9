"""The demo's files are valid requests about texts that fit."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from celeriac.api.v1.catalog import NewAgent, NewTask
from celeriac.domain.agents import LlmAgent
from celeriac.domain.prompts import compiled
from celeriac.domain.schemas import check_schema
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
def test_each_text_fits_each_task(demo: dict[str, Any], path: Path) -> None:
    variables = {"text": path.read_text()}
    for each in demo["tasks"]:
        spec = NewTask.model_validate(each).spec
        check_variables(spec.variables_schema, variables)
        assert variables["text"].strip() in compiled(spec.prompt).render(variables)
