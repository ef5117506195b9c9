"""Runs that fail or are cancelled undo their steps in reverse order, each once."""

from dataclasses import replace
from typing import Any

import pytest

from celeriac import Workflow
from celeriac.db.workflows import runs
from celeriac.domain.errors import WorkflowInvalidError
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.kit.json_types import JsonObject
from tests.support.undo import (
    all_claims,
    chain,
    end_by_name,
    failing,
    names,
    undone,
)
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")


def test_the_trip_of_the_documentation_is_cancelled_when_the_card_is_declined(
    flows: Flows,
) -> None:
    for task in ("book-flight", "book-hotel", "charge-card", "cancel-flight", "cancel-hotel"):
        flows.add_task(task)
    w = Workflow("book-trip", input={"trip": dict})
    flight = w.step("book-flight", trip=w.input.trip).undo("cancel-flight", on="started")
    hotel = w.step("book-hotel", trip=w.input.trip, after=flight).undo("cancel-hotel")
    w.step("charge-card", total=flight.result.price + hotel.result.price).set(retry=0)
    workflow = flows.workflows.create(flows.core.actor, name="book-trip", spec=w.spec())
    trip = {"to": "Oslo"}
    run_id = flows.start(workflow.id, trip=trip)

    def work(name: str, _given: JsonObject) -> object:
        prices = {"book-flight": {"price": 100}, "book-hotel": {"price": 50}}
        return FAILS if name == "charge-card" else prices.get(name)

    flows.drive(work)

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_step) == (RunStatus.FAILED, "charge_card")
    assert ran.run.compensation is Compensation.COMPENSATED
    assert flows.done[-2:] == [
        ("cancel-hotel", {"input": {"trip": trip}, "result": {"price": 50}, "error": None}),
        ("cancel-flight", {"input": {"trip": trip}, "result": {"price": 100}, "error": None}),
    ]
    assert list(ran.statuses.items())[3:] == [
        ("book_flight.undo", "completed"), ("book_hotel.undo", "completed"),
    ]  # fmt: skip
    assert [step.undoes for step in ran.steps.values()][3:] == ["book_flight", "book_hotel"]
    said = [(data["status"], data["undoes"]) for _, data in ran.events() if "undoes" in data]
    assert said == [
        ("running", "book_hotel"), ("completed", "book_hotel"),
        ("running", "book_flight"), ("completed", "book_flight"),
    ]  # fmt: skip
    last, facts = ran.events()[-1]
    assert (last, facts["compensation"]) == ("failed", "compensated")
    (item,) = ran.items("book_hotel.undo")
    execution = flows.core.get(item.execution_id)
    assert execution.trigger_type is TriggerType.WORKFLOW
    made_by = (execution.workflow_run_id, execution.step, execution.item)
    assert made_by == (run_id, "book_hotel.undo", 0)
    assert execution.options.hard_seconds is None, "the limits are those of the undo task"
    flows.assert_counted()


def test_a_run_that_completes_or_has_nothing_to_undo_has_no_compensation(flows: Flows) -> None:
    completed = flows.run(chain("a", "b"))
    assert (completed.status, completed.run.compensation) == (RunStatus.COMPLETED, None)
    failed = flows.run(chain("c", "d"), failing("c"))
    assert (failed.status, failed.run.compensation) == (RunStatus.FAILED, None)
    assert list(failed.statuses) == ["c", "d"]
    assert undone(flows) == []
    flows.assert_counted()


def test_three_done_steps_of_a_cancelled_run_are_undone_3_2_1(flows: Flows) -> None:
    """danielgerlag/workflow-core #191, #206."""
    run_id = flows.start(flows.define("w", chain("a", "b", "c", "d")))
    flows.drive(most=3)
    flows.runs.cancel(flows.core.actor, run_id)
    flows.drive()
    ran = flows.ran(run_id)
    assert (ran.status, ran.run.compensation) == (RunStatus.CANCELLED, Compensation.COMPENSATED)
    assert undone(flows) == ["undo-c", "undo-b", "undo-a"]
    assert ran.statuses["d"] == "cancelled"
    assert ran.events()[-1] == ("cancelled", {"compensation": "compensated"})
    flows.assert_counted()


@pytest.mark.parametrize("before", ["cancelled", "failed"])
def test_a_cancellation_does_not_stop_compensation(flows: Flows, before: str) -> None:
    """temporalio/sdk-java #305."""
    actor = flows.core.actor
    run_id = flows.start(flows.define("w", chain("a", "b", "c")))
    flows.drive(failing("c"), most=2 if before == "cancelled" else 3)
    if before == "cancelled":
        flows.runs.cancel(actor, run_id)
    claim = flows.take()
    assert claim is not None
    assert flows.names[claim.task_id] == "undo-b"

    for _ in range(2):
        assert flows.runs.cancel(actor, run_id).status is RunStatus.COMPENSATING

    assert flows.core.get(claim.lease.execution_id).cancel_requested_at is None
    flows.end(claim)
    flows.drive()
    ran = flows.ran(run_id)
    assert (ran.status.value, ran.run.compensation) == (before, Compensation.COMPENSATED)
    assert undone(flows) == ["undo-b", "undo-a"]
    if before == "failed":
        assert ran.run.cancel_requested_at is None
    flows.assert_counted()


def test_branches_are_undone_independently_and_what_they_need_after_both(flows: Flows) -> None:
    steps = {
        **chain("a", "b"), "x": {"task": "x", "undo": "undo-x", "needs": ["a"]},
        "y": {"task": "y", "undo": "undo-y", "needs": ["x"]},
        "alone": {"task": "alone", "undo": "undo-alone"},
        "end": {"task": "end", "needs": ["b", "y", "alone"]},
    }  # fmt: skip
    run_id = flows.start(flows.define("w", steps))
    while "end" not in names(flows):
        flows.drive(failing("end"), most=1)

    claims = all_claims(flows)
    assert sorted(flows.names[each.task_id] for each in claims) == [
        "undo-alone", "undo-b", "undo-y",
    ]  # fmt: skip
    end_by_name(flows, claims, "undo-y", failing())
    claims += all_claims(flows)
    assert sorted(flows.names[each.task_id] for each in claims) == [
        "undo-alone", "undo-b", "undo-x",
    ]  # fmt: skip
    end_by_name(flows, claims, "undo-x", failing("undo-x"))
    assert all_claims(flows) == [], "undo-b still runs"
    end_by_name(flows, claims, "undo-b", failing())
    claims += all_claims(flows)
    assert sorted(flows.names[each.task_id] for each in claims) == ["undo-a", "undo-alone"]
    for claim in claims:
        flows.end(claim)
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATION_FAILED
    flows.assert_counted()


@pytest.mark.parametrize("on", ["completed", "started"])
def test_a_failed_step_is_undone_only_if_it_is_undone_on_started(flows: Flows, on: str) -> None:
    given = {"given": {"x": 1}, "input": {"x": "integer"}}
    steps = chain("a", "b", on=on)
    steps["b"]["with"] = {"x": "${{ input.x }}"}
    flows.run(steps, failing("b"), **given)
    assert undone(flows) == (["undo-b", "undo-a"] if on == "started" else ["undo-a"])
    if on == "started":
        (_, variables) = flows.done[-2]
        assert variables == {
            "input": {"x": 1},
            "result": None,
            "error": {"code": "agent_failed", "message": "it failed"},
        }
    flows.assert_counted()


def test_what_was_cancelled_while_it_ran_or_lost_its_worker_had_effects(flows: Flows) -> None:
    steps = {name: {"task": name, "undo": {"task": f"undo-{name}", "on": "started"}}
             for name in ("ran", "lost", "waits")}  # fmt: skip
    run_id = flows.start(flows.define("w", steps))
    claims = [flows.take(), flows.take()]
    begun = {flows.names[each.task_id] for each in claims if each is not None}
    flows.runs.cancel(flows.core.actor, run_id)
    flows.core.pass_time(60)
    flows.core.rescue()
    flows.advance.after([run_id])
    flows.drive()
    ran = flows.ran(run_id)
    assert (ran.status, ran.run.compensation) == (RunStatus.CANCELLED, Compensation.COMPENSATED)
    assert set(undone(flows)) == {f"undo-{name}" for name in begun}
    for _, variables in flows.done:
        assert variables["error"] is not None
    flows.assert_counted()


def test_a_step_that_could_not_begin_is_not_undone(flows: Flows) -> None:
    steps = {
        "a": {"task": "a", "undo": "undo-a"},
        "b": {"task": "b", "with": {"x": "${{ steps.a.result.nothing }}"},
              "undo": {"task": "undo-b", "on": "started"}},
    }  # fmt: skip
    ran = flows.run(steps, failing())
    assert ran.run.error_code == "expression_error"
    assert undone(flows) == ["undo-a"]
    flows.assert_counted()


def test_a_failed_undo_does_not_keep_the_others_from_being_undone(flows: Flows) -> None:
    ran = flows.run(chain("a", "b", "c", "d"), failing("d", "undo-b"))
    assert ran.status is RunStatus.FAILED
    assert ran.run.compensation is Compensation.COMPENSATION_FAILED
    assert undone(flows) == ["undo-c", "undo-b", "undo-a"]
    failed = ran.steps["b.undo"]
    assert (failed.error_code, failed.error_message) == ("agent_failed", "it failed")
    assert ran.run.error_step == "d", "the run fails for its own reason"
    flows.assert_counted()


def test_an_undo_task_that_is_cancelled_by_a_person_has_failed(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", chain("a", "b")))
    while "b" not in names(flows):
        flows.drive(failing("b"), most=1)
    (item,) = flows.ran(run_id).items("a.undo")
    flows.cancel(flows.core.actor, [item.execution_id])
    ran = flows.ran(run_id)
    assert ran.run.compensation is Compensation.COMPENSATION_FAILED
    assert ran.steps["a.undo"].error_code == "cancelled"
    flows.assert_counted()


def test_a_run_that_met_its_deadline_is_undone_however_long_that_takes(flows: Flows) -> None:
    overdue = "UPDATE workflow_runs SET deadline_at = now() - interval '1 second'"
    workflow = flows.define("w", chain("a", "b"), deadline="1h")
    run_id = flows.start(workflow)
    flows.drive(most=1)
    flows.core.execute(overdue)
    assert flows.advance.overdue(10) == 1
    assert flows.ran(run_id).status is RunStatus.COMPENSATING
    flows.drive()
    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "deadline")
    assert ran.run.compensation is Compensation.COMPENSATED

    again = flows.start(workflow)
    flows.drive(most=1)
    flows.runs.cancel(flows.core.actor, again)
    flows.core.execute(overdue)
    assert flows.advance.overdue(10) == 0, "what is being undone has no deadline"
    flows.drive()
    ran = flows.ran(again)
    assert (ran.status, ran.run.error_code) == (RunStatus.CANCELLED, None)
    assert undone(flows) == ["undo-a"] * 2
    flows.assert_counted()


def test_last_steps_run_before_anything_is_undone(flows: Flows) -> None:
    steps = {
        **chain("a", "b"),
        "oops": {"task": "oops", "run": "failure"},
        "always": {"task": "always", "run": "always", "needs": ["oops"]},
    }
    ran = flows.run(steps, failing("b", "always"))
    assert names(flows) == ["a", "b", "oops", "always", "undo-a"]
    assert ran.run.compensation is Compensation.COMPENSATED
    flows.assert_counted()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"required": ["booking"]}, "needs booking: give it a default"),
        (
            {"properties": {"input": {}}, "additionalProperties": False},
            "has no result, error: add it there",
        ),
    ],
)
def test_a_task_that_cannot_undo_is_refused(flows: Flows, schema: Any, said: str) -> None:
    flows.add_task("undo-a", variables_schema={"type": "object", **schema})
    with pytest.raises(WorkflowInvalidError, match="undo task gets the variables") as caught:
        flows.define("w", chain("a"))
    assert said in str(caught.value)


def test_all_runs_of_a_workspace_are_cancelled_though_one_undoes_something(flows: Flows) -> None:
    workflow = flows.define("w", chain("a", "b"))
    run_id = flows.start(workflow)
    while "b" not in names(flows):
        flows.drive(failing("b"), most=1)
    other = flows.start(workflow)
    administrator = replace(flows.core.actor, administrator=True)
    flows.runs.cancel_all(administrator, flows.core.actor.workspace_id)
    assert flows.ran(other).status is RunStatus.CANCELLED
    assert flows.ran(run_id).status is RunStatus.COMPENSATING
    flows.drive()
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATED
    assert flows.core.status(flows.ran(run_id).items("a.undo")[0].execution_id) is Status.COMPLETED


@pytest.mark.parametrize("before", ["cancelled", "failed"])
def test_a_workspace_is_not_empty_while_one_of_its_runs_undoes_something(
    flows: Flows, before: str
) -> None:
    run_id = flows.start(flows.define("w", chain("a", "b")))
    flows.drive(failing("b"), most=1 if before == "cancelled" else 2)
    if before == "cancelled":
        flows.runs.cancel(flows.core.actor, run_id)
    assert flows.ran(run_id).status is RunStatus.COMPENSATING
    workspace = flows.core.actor.workspace_id
    with flows.core.database.autocommit() as connection:
        found = runs.uncancelled_in(connection, workspace, limit=9, compensating=True)
        cancellable = runs.uncancelled_in(connection, workspace, limit=9, compensating=False)
    assert (found, cancellable) == ([run_id], [])
