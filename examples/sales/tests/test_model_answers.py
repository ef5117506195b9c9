"""What the model is asked, on recorded answers: no model, no key, no server.

`SALES_RECORD=1 pytest` records them anew, on the model of a running `celeriac up`.
"""

import csv
import os
from pathlib import Path

import pytest

from celeriac.testing import CassetteMismatchError, run_task

HERE = Path(__file__).parent
PROJECT = HERE.parent / "project.yaml"
RECORD = "SALES_RECORD" in os.environ
LEADS = list(csv.DictReader((HERE.parent / "leads.csv").open(encoding="utf-8")))
LEADS += [
    {"company": name, "message": f"We store {goods} and need stock software."}
    for name, goods in (("Kornspeicher", "grain for forty farms"), ("Holzhof", "timber"))
]


@pytest.mark.parametrize("lead", LEADS, ids=lambda lead: lead["company"])
@pytest.mark.parametrize("task", ["judge_lead", "describe_lead"])
def test_the_answer_fits_the_schema(task: str, lead: dict[str, str]) -> None:
    """The output schema is checked in the same way as by a worker."""
    question = {"company": lead["company"], "message": lead["message"]}
    name = f"{task}-{lead['company'].lower().replace(' ', '-')}.jsonl"
    run = run_task(PROJECT, task, question, HERE / "cassettes" / name, record=RECORD)
    assert len(run.calls) == 1, "the first answer was good"
    assert run.result["fit" if task == "judge_lead" else "industry"]


def test_another_prompt_needs_another_recording() -> None:
    """A change of prompt, instructions, model or schema shows up here first."""
    question = {"company": "Hafenlager Nord", "message": "Something else."}
    with pytest.raises(CassetteMismatchError, match="Something else"):
        run_task(
            PROJECT, "judge_lead", question, HERE / "cassettes" / "judge_lead-hafenlager-nord.jsonl"
        )
