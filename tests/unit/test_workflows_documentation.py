"""docs/workflows.md: both spellings are one valid document, and its tables are complete."""

import re
from pathlib import Path
from typing import Any

import pytest

from celeriac import Workflow
from celeriac.domain.expressions.functions import FUNCTIONS, MACROS, METHODS
from celeriac.domain.workflows.document import WorkflowDocument, parse
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import Step
from celeriac.domain.workflows.references import ROOTS, RUN_FIELDS, STEP_FIELDS
from celeriac.domain.workflows.states import (
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    TERMINAL_STEPS,
    RunStatus,
    StepStatus,
)
from celeriac.kit.yaml_text import read_text
from tests.support.docs import Block, examples

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()
BLOCKS = [block for block in examples() if block.page == "docs/workflows.md"]
YAML = [block for block in BLOCKS if block.language == "yaml"]
PYTHON = [block for block in BLOCKS if block.language == "python" and "Workflow(" in block.text]


def built(block: Block) -> Workflow:
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    found = names["w"]
    assert isinstance(found, Workflow)
    return found


@pytest.mark.parametrize("block", YAML, ids=str)
def test_python_builds_exactly_the_document_that_is_written(block: Block) -> None:
    read = read_text(block.text, "f.yaml")
    assert read.faults == ()
    parse(read.value)
    [same] = [w for each in PYTHON if (w := built(each)).name == read.value["workflow"]]
    assert same.to_dict() == read.value


def test_the_words_of_celery_give_the_order_of_the_text() -> None:
    w = built(PYTHON[-1])
    assert Graph.of(w.spec()).levels == (("load",), ("clean", "check"), ("merge",), ("send",))


def table(heading: str) -> set[str]:
    """Return the words in the first columns of a section's tables."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([\w.]+)`", row)}


def test_every_field_is_in_its_table_and_no_other() -> None:
    assert table("The document") == set(WorkflowDocument.model_fields) - {"order"}
    assert table("Steps") == {field.alias or name for name, field in Step.model_fields.items()}


def test_expressions_are_documented_whole() -> None:
    section = PAGE.partition("\n## Expressions\n")[2].partition("\n## ")[0]
    words = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`([^`]+)`", section))))
    wanted = {*FUNCTIONS, *METHODS, *MACROS, *ROOTS, *RUN_FIELDS, *STEP_FIELDS, *TERMINAL_STEPS}
    assert set(map(str, wanted)) <= words


DRAWINGS = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    ("drawing", "table", "states", "first"),
    [
        (DRAWINGS[0], RUN_TRANSITIONS, RunStatus, RunStatus.PENDING),
        (DRAWINGS[1], STEP_TRANSITIONS, StepStatus, StepStatus.BLOCKED),
    ],
    ids=["run", "step"],
)
def test_every_transition_is_drawn_and_no_other(
    drawing: str, table: Any, states: Any, first: Any
) -> None:
    lines = re.findall(r"^    (\w+) --> (\w+): (\w+)$", drawing, re.MULTILINE)
    assert set(lines) == {
        (source.value, target.value, name.value)
        for name, (sources, target) in table.items()
        for source in sources
    }
    assert len(lines) == len(set(lines))
    assert re.findall(r"\[\*\] --> (\w+):", drawing) == [first]
    assert {word for line in lines for word in line[:2]} == {state.value for state in states}
