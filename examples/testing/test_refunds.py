"""Tests of a workflow without a server; `pytest examples/testing` runs them."""

from typing import Any

from celeriac.testing import WorkflowRun, run_workflow

REFUNDS = """
workflow: refunds
input: {texts: array}
steps:
  sort: {task: sort, map: input.texts, with: {text: "${{ item }}"}}
  ask:
    approve: Refund these charges?
    show: {sorted: "${{ steps.sort.results }}"}
    when: steps.sort.results.exists(each, each.category == 'billing')
  refund:
    task: refund
    with: {sorted: "${{ steps.sort.results }}"}
    when: steps.ask.status == 'completed'
returns: "${{ steps.refund.result }}"
"""


def sort(variables: dict[str, Any]) -> dict[str, str]:
    """Stand in for the task that asks the model."""
    return {"category": "billing" if "charged" in variables["text"] else "other"}


def run(text: str, *, agreed: bool) -> WorkflowRun:
    """Run the workflow on one text; a person agrees or not."""
    return run_workflow(
        REFUNDS,
        {"texts": [text]},
        tasks={"sort": sort, "refund": lambda variables: len(variables["sorted"])},
        answers={"ask": agreed},
    )


def test_a_charge_is_refunded_if_a_person_agrees() -> None:
    """The question shows what the steps before have returned."""
    agreed = run("You charged me twice!", agreed=True)
    assert agreed.result == 1
    assert agreed.questions[0].arguments == {"sorted": [{"category": "billing"}]}
    denied = run("You charged me twice!", agreed=False)
    assert (denied.steps["ask"].status, denied.steps["refund"].status) == ("denied", "skipped")


def test_nobody_is_asked_without_a_charge() -> None:
    """Nothing is refunded without an answer."""
    other = run("Where is my parcel?", agreed=True)
    assert other.questions == ()
    assert other.steps["refund"].status == "skipped"
