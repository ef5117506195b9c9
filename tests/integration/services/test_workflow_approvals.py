"""Approval steps of workflows: asked once, answered once, and the run goes on accordingly."""

import pytest

from celeriac.domain.approvals import (
    Answer,
    ApprovalFilter,
    ApprovalStatus,
    OnExpiry,
    QuestionKind,
)
from celeriac.domain.errors import (
    ApprovalClosedError,
    InvalidInputError,
)
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.workflows.again import ForkRequest
from tests.support.workflow_approvals import ORDER, of_question, order, reported, started
from tests.support.workflows import FAILS, Flows

_ALL = ApprovalFilter()


pytestmark = pytest.mark.requirement("E3")


def test_a_step_asks_and_an_approval_lets_the_run_go_on(flows: Flows) -> None:
    run_id = started(flows)

    asked = of_question(flows, run_id)
    assert (asked.kind, asked.title, asked.arguments) == (
        QuestionKind.STEP, "Send it?", {"draft": "hello"},
    )  # fmt: skip
    assert (asked.run_id, asked.step, asked.workflow_name) == (run_id, "ok", "w")
    assert (asked.execution_id, asked.task_id, asked.task_name, asked.attempt) == (None,) * 4
    waiting = flows.ran(run_id)
    assert waiting.statuses == {
        "draft": "completed", "ok": "running", "send": "blocked", "report": "blocked",
    }  # fmt: skip
    assert [(item.status, item.approval_id) for item in waiting.items("ok")] == [
        ("running", asked.id)
    ]
    assert flows.core.count("executions") == 1, "nothing but the draft has an execution"
    flows.assert_counted()

    answered = flows.answer(run_id, approved=True, note="Fine by me.")
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.status_of("ok"), ran.steps["ok"].completed) == (
        "completed", "completed", 1,
    )  # fmt: skip
    seen = reported(flows, run_id)
    assert seen["status"] == "completed"
    assert seen["answer"].pop("at").startswith(f"{answered.answered_at:%Y-%m-%dT%H:%M:%S}")
    assert seen["answer"] == {
        "approval_id": str(asked.id), "approved": True, "expired": False,
        "by": flows.core.actor.name, "note": "Fine by me.",
    }  # fmt: skip
    kinds = [(kind, data.get("status")) for kind, data in ran.events()]
    at = kinds.index(("approval_asked", None))
    assert kinds[at + 1 : at + 3] == [("approval_answered", None), ("step", "completed")]
    assert {**ran.events()[at][1], "expires_at": "-"} == {
        "approval_id": str(asked.id), "step": "ok", "kind": "step", "title": "Send it?",
        "expires_at": "-", "arguments": {"draft": "hello"},
    }  # fmt: skip
    flows.assert_counted()


@pytest.mark.parametrize("note", ["", "Not today."])
def test_a_denial_skips_what_needs_the_step_and_the_run_completes(flows: Flows, note: str) -> None:
    run_id = started(flows)

    flows.answer(run_id, approved=False, note=note)
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code) == (RunStatus.COMPLETED, None)
    assert ran.statuses == {
        "draft": "completed", "ok": "denied", "send": "skipped", "report": "completed",
    }  # fmt: skip
    seen = reported(flows, run_id)
    assert (seen["status"], seen["answer"]["approved"], seen["answer"]["note"]) == (
        "denied", False, note,
    )  # fmt: skip
    flows.assert_counted()


@pytest.mark.parametrize(
    ("note", "message"),
    [("", "ada denied it."), ("Not today.", "ada denied it: Not today.")],
)
def test_a_denial_fails_the_run_if_the_step_says_so(flows: Flows, note: str, message: str) -> None:
    run_id = started(flows, order(on_denial="fail"))

    flows.answer(run_id, approved=False, note=note)
    flows.drive()

    ran = flows.ran(run_id)
    message = message.replace("ada", flows.core.actor.name)
    assert (ran.status, ran.run.error_code, ran.run.error_message, ran.run.error_step) == (
        RunStatus.FAILED, "approval_denied", message, "ok",
    )  # fmt: skip
    assert (ran.status_of("ok"), ran.status_of("send")) == ("failed", "cancelled")
    flows.assert_counted()


@pytest.mark.parametrize("on_denial", ["skip", "fail"])
def test_an_expiry_is_a_denial_that_skips_whatever_a_denial_would_do(
    flows: Flows, on_denial: str
) -> None:
    run_id = started(flows, order(expires="2d", on_expiry="skip", on_denial=on_denial))
    assert flows.expire.expire_overdue(10) == 0

    assert flows.lapse(2 * 86_400 + 1) == 1
    assert flows.expire.expire_overdue(10) == 0
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.status_of("ok"), ran.status_of("send")) == (
        RunStatus.COMPLETED, "denied", "skipped",
    )  # fmt: skip
    seen = reported(flows, run_id)["answer"]
    assert (seen["expired"], seen["by"], seen["approved"]) == (True, "expiry", False)
    assert of_question(flows, run_id).status is ApprovalStatus.EXPIRED
    flows.assert_counted()


def test_an_expiry_fails_the_run_unless_the_step_says_otherwise(flows: Flows) -> None:
    run_id = started(flows, order(expires=60))
    assert of_question(flows, run_id).on_expiry is OnExpiry.FAIL

    flows.lapse(61)
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code, ran.run.error_message) == (
        RunStatus.FAILED, "approval_expired", "Nobody answered in time: Send it?",
    )  # fmt: skip
    with pytest.raises(ApprovalClosedError, match="nobody answered it in time"):
        flows.approvals.answer(
            flows.core.actor, of_question(flows, run_id).id, Answer(approved=True)
        )
    flows.assert_counted()


def test_a_failure_that_is_tolerated_lets_the_run_go_on(flows: Flows) -> None:
    run_id = started(flows, order(on_denial="fail", on_failure="continue"))

    flows.answer(run_id, approved=False)
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.statuses["ok"], ran.statuses["send"]) == (
        RunStatus.COMPLETED, "failed", "completed",
    )  # fmt: skip
    assert reported(flows, run_id) == {"status": "failed", "answer": None}


def test_a_condition_that_does_not_hold_asks_nobody(flows: Flows) -> None:
    run_id = started(flows, order(when="1 > 2"))

    ran = flows.ran(run_id)
    assert (ran.status, ran.status_of("ok"), flows.asked(only_open=False)) == (
        RunStatus.COMPLETED, "skipped", [],
    )  # fmt: skip


def test_a_last_step_may_ask_also_after_a_failure_and_a_cancellation(flows: Flows) -> None:
    steps = {
        "work": {"task": "work"},
        "back": {"approve": "Roll back?", "run": "always"},
        "undo": {"task": "undo", "run": "always", "with": {"yes": "${{ steps.back.status }}"}},
    }
    run_id = flows.start(flows.define("w", steps))
    flows.drive(lambda *_: FAILS)
    assert flows.ran(run_id).status is RunStatus.FINISHING

    flows.runs.cancel(flows.core.actor, run_id)
    assert flows.ran(run_id).statuses["back"] == "running"
    flows.answer(run_id, approved=True)
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.items("undo")[0].result) == (
        RunStatus.CANCELLED, {"yes": "completed"},
    )  # fmt: skip
    flows.assert_counted()


def test_a_workflow_in_a_step_asks_too(flows: Flows) -> None:
    flows.define("inner", ORDER, returns="${{ steps.ok.result.approved }}")
    outer = {
        "each": {"workflow": "inner", "map": "[1, 2, 3]"},
        "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}},
    }
    run_id = flows.start(flows.define("outer", outer))
    flows.drive()
    asked = flows.asked()
    assert {each.run_id for each in asked} == {child.id for child in flows.children(run_id)}
    assert flows.asked(run_id) == []

    for each in asked:
        flows.approvals.answer(flows.core.actor, each.id, Answer(approved=True))
    flows.drive()

    ran = flows.ran(run_id)
    assert ran.status is RunStatus.COMPLETED
    assert ran.items("all")[0].result == {"all": [True, True, True]}
    flows.assert_counted()


def test_a_retry_refers_to_the_approval_and_asks_nobody_again(flows: Flows) -> None:
    origin = started(flows)
    flows.answer(origin, approved=True, note="Go.")
    flows.drive(lambda name, given: FAILS if name == "send" else given)
    assert flows.ran(origin).status is RunStatus.FAILED

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive()

    assert flows.ran(again).status is RunStatus.COMPLETED
    assert len(flows.asked(only_open=False)) == 1
    assert reported(flows, again)["answer"]["note"] == "Go."
    (item,) = flows.ran(again).items("ok")
    assert item.approval_id == of_question(flows, origin).id
    flows.assert_counted()


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_what_was_denied_or_expired_is_asked_again(flows: Flows, policy: str) -> None:
    steps = order(on_denial=policy, on_expiry=policy)
    for close in (lambda run: flows.answer(run, approved=False), lambda _: flows.lapse()):
        origin = started(flows, {**steps, "last": {"task": "last"}})
        close(origin)
        flows.drive(lambda name, given: FAILS if name == "last" else given)
        assert flows.ran(origin).status is RunStatus.FAILED or policy == "skip"

        again = flows.runs.fork(flows.core.actor, origin, ForkRequest(step="ok")).run_id
        flows.drive()
        flows.answer(again, approved=True)
        flows.drive()

        assert flows.ran(again).status is RunStatus.COMPLETED
        assert flows.ran(again).statuses["send"] == "completed"
        flows.assert_counted()
        flows.workflows.delete(flows.core.actor, "w")


def test_a_retry_asks_again_what_was_denied(flows: Flows) -> None:
    steps = {**ORDER, "bad": {"task": "bad", "needs": ["draft"]}}
    origin = flows.start(flows.define("w", steps))
    claim = flows.take()
    assert claim is not None
    flows.end(claim)
    flows.answer(origin, approved=False)
    flows.drive(lambda name, given: FAILS if name == "bad" else given)
    assert flows.ran(origin).statuses["ok"] == "denied"

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive()
    flows.answer(again, approved=True)
    flows.drive()

    assert flows.ran(again).statuses == {
        "draft": "completed", "ok": "completed", "send": "completed", "report": "completed",
        "bad": "completed",
    }  # fmt: skip


def test_a_fork_cannot_answer_in_the_place_of_a_person(flows: Flows) -> None:
    origin = started(flows)
    flows.answer(origin, approved=False)
    flows.drive()

    with pytest.raises(InvalidInputError, match="'ok' is an approval: a person answers it"):
        flows.runs.fork(flows.core.actor, origin, ForkRequest(results={"ok": {"approved": True}}))
