"""The workflow of `project.yaml`, on recorded answers, and on answers of a test."""

from pathlib import Path
from typing import Any

import pytest

import celeriac
from celeriac.testing import WorkflowRun, run_workflow
from sales import agents
from sales.models import find_lead, unqualified_ids

pytestmark = pytest.mark.usefixtures("database")

HERE = Path(__file__).parent
CSV = (HERE.parent / "leads.csv").read_text(encoding="utf-8")
TWO = "email,company,employees,message\na@a.example,A,3,Hello\nb@b.example,B,200,Hello\n"


def sweep(csv: str, *, agreed: bool | None, **tasks: Any) -> WorkflowRun:
    """Run the workflow; `tasks` stand in for tasks that ask the model."""
    return run_workflow(
        "sweep_leads",
        {"csv": csv, "min_score": 90},
        project=HERE.parent / "project.yaml",
        cassettes=HERE / "cassettes",
        tasks=tasks,
        answers={"agree": agreed},
    )


def high(_: dict[str, Any]) -> dict[str, str]:
    """Say that a lead fits."""
    return {"fit": "high", "reason": "They have a warehouse."}


def test_a_sweep_on_recorded_answers() -> None:
    """The functions, the tasks of the model and the workflow fit together."""
    run = sweep(CSV, agreed=True)
    [question] = run.questions
    best = [lead["id"] for lead in question.arguments["leads"]]
    assert run.result["leads"] == len(CSV.splitlines()) - 1
    assert run.result["enriched"] == len(best) > 0
    assert all(find_lead(lead_id)["industry"] for lead_id in best)
    assert unqualified_ids(10) == []


@pytest.mark.parametrize("agreed", [False, None])
def test_nothing_is_enriched_unless_a_person_agrees(*, agreed: bool | None) -> None:
    """Neither if the answer is no, nor if there is none; the sweep is summed up all the same."""
    run = sweep(TWO, agreed=agreed, judge_lead=high)
    assert (run.steps["agree"].status, run.steps["enrich"].status) == ("denied", "skipped")
    assert run.result["by_fit"] == {"high": 2}
    assert run.result["enriched"] == 0


def test_too_many_failures_end_a_sweep() -> None:
    """One of two leads is more than a fifth."""

    def fails(lead: dict[str, Any]) -> dict[str, str]:
        if lead["company"] == "A":
            raise celeriac.PermanentError("There is no such company.")
        return high(lead)

    run = sweep(TWO, agreed=True, judge_lead=fails)
    assert run.error is not None
    assert run.error.step == "qualify"
    assert "There is no such company" in str(run.error)
    assert run.steps["sum_up"].result["failed"] == 2, "no further lead was begun"


def test_a_csv_with_a_fault_ends_a_sweep_at_once() -> None:
    """The error names the line; no lead is stored."""
    run = sweep(TWO.replace("200", "many"), agreed=True)
    assert run.error is not None
    assert (run.error.step, run.error.code) == ("load", agents.CsvInvalidError.code)
    assert "Line 3, employees" in run.error.message
    assert unqualified_ids(10) == []
