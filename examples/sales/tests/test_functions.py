"""The functions of `sales.agents`, each run as a worker would, without a server."""

from typing import Any

import pytest
from alembic import command
from alembic.config import Config

import celeriac
from celeriac.testing import run_function
from sales import agents
from sales.models import NewLead, NoSuchLeadError, find_lead, save_leads, unqualified_ids

pytestmark = pytest.mark.usefixtures("database")

LEAD = NewLead(email="ines@hafenlager.example", company="Hafenlager Nord", employees=240)


def answers(task: str, variables: dict[str, Any]) -> Any:
    """Stand in for the other tasks."""
    if task == "judge_lead":
        return {"fit": "high", "reason": f"{variables['company']} has warehouses."}
    if task == "describe_lead":
        return {"industry": "logistics", "summary": f"{variables['company']} stores goods."}
    assert task == "qualify_lead"
    return run_function(agents.qualify_lead, variables, children=answers).result


def test_the_migrations_make_the_tables_of_the_models(alembic: Config) -> None:
    """Alembic finds nothing that a migration would have to add."""
    command.check(alembic)


def test_a_qualified_lead_has_a_score() -> None:
    """A large company scores more."""
    [large] = save_leads([LEAD])
    run = run_function(agents.qualify_lead, {"lead_id": large["id"]}, children=answers)
    assert (run.result["fit"], run.result["score"]) == ("high", 90)
    assert find_lead(large["id"])["reason"] == "Hafenlager Nord has warehouses."


def test_an_enriched_lead_has_an_industry() -> None:
    """What the model answers is stored with the lead."""
    [lead] = save_leads([LEAD])
    run_function(agents.enrich_lead, {"lead_id": lead["id"]}, children=answers)
    assert find_lead(lead["id"])["industry"] == "logistics"


def test_a_failed_question_fails_the_lead_and_stores_nothing() -> None:
    """The error of the child is that of its parent."""
    [lead] = save_leads([LEAD])

    def fails(task: str, variables: dict[str, Any]) -> Any:
        raise celeriac.PermanentError(f"{task} can't read {variables['company']}.")

    with pytest.raises(celeriac.ChildFailedError, match="can't read Hafenlager"):
        run_function(agents.qualify_lead, {"lead_id": lead["id"]}, children=fails)
    assert find_lead(lead["id"])["score"] is None


def test_a_lead_that_is_not_there_is_a_permanent_error() -> None:
    """No retry would find it."""
    with pytest.raises(celeriac.StepFailedError, match="There is no lead 7") as caught:
        run_function(agents.qualify_lead, {"lead_id": 7})
    assert (caught.value.code, caught.value.retryable) == (NoSuchLeadError.code, False)


def test_a_lead_of_the_website_is_stored_once_and_qualified() -> None:
    """A form that is sent again does not make a second lead."""
    form = {"email": LEAD.email, "company": LEAD.company, "message": "Hello", "employees": 240}
    first = run_function(agents.receive_lead, form, children=answers).result
    again = run_function(agents.receive_lead, form, children=answers).result
    assert first["id"] == again["id"]
    assert first["score"] == 90


def test_the_nightly_task_qualifies_what_has_no_score() -> None:
    """It leaves nothing behind."""
    save_leads([LEAD, LEAD.model_copy(update={"email": "b@hafenlager.example"})])
    run = run_function(agents.qualify_new_leads, {}, children=answers)
    assert run.result == {"qualified": 2}
    assert unqualified_ids(10) == []
    assert run_function(agents.qualify_new_leads, {}).result == {"qualified": 0}


def test_the_best_leads_come_first_and_failed_ones_are_left_out() -> None:
    """Failed items of the map before are null."""
    leads = [{"id": 1, "score": 50}, None, {"id": 2, "score": 90}, {"id": 3, "score": 90}]
    run = run_function(agents.rank_leads, {"leads": leads, "min_score": 60})
    assert [lead["id"] for lead in run.result] == [2, 3]
