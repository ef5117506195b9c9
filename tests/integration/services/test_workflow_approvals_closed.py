"""Questions of approval steps are closed once: by an answer, an expiry or the end of the run."""

from uuid import UUID

import pytest

from celeriac.domain.approvals import (
    Answer,
    ApprovalFilter,
    ApprovalStatus,
)
from celeriac.domain.errors import (
    ApprovalClosedError,
    DatabaseUnavailableError,
)
from celeriac.domain.workflows.states import RunStatus
from tests.support.together import together
from tests.support.workflow_approvals import ORDER, of_question, order, started
from tests.support.workflows import FAILS, Flows

_ALL = ApprovalFilter()


pytestmark = pytest.mark.requirement("E3")


def test_many_questions_of_one_run_expire_together(flows: Flows) -> None:
    steps = {f"q{n}": {"approve": "?", "expires": 60, "on_expiry": "skip"} for n in range(5)}
    run_id = started(flows, steps)
    assert len(flows.asked(run_id)) == 5

    assert flows.lapse() == 5

    ran = flows.ran(run_id)
    assert (ran.status, set(ran.statuses.values())) == (RunStatus.COMPLETED, {"denied"})
    flows.assert_counted()


def test_a_cancellation_withdraws_the_question(flows: Flows) -> None:
    run_id = started(flows)

    flows.runs.cancel(flows.core.actor, run_id)
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.status_of("ok"), ran.status_of("send"), ran.status_of("report")) == (
        RunStatus.CANCELLED, "cancelled", "cancelled", "completed",
    )  # fmt: skip
    asked = of_question(flows, run_id)
    assert (asked.status, asked.approved) == (ApprovalStatus.WITHDRAWN, None)
    with pytest.raises(ApprovalClosedError, match="its workflow run has stopped"):
        flows.approvals.answer(flows.core.actor, asked.id, Answer(approved=True))
    assert flows.lapse() == 0
    flows.assert_counted()


def test_a_run_ends_that_is_cancelled_before_its_question_was_asked(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = flows.define("w", {"ok": {"approve": "Send?"}})

    def dies(*_: object) -> None:
        raise DatabaseUnavailableError("it died after the turn that began the step")

    with monkeypatch.context() as dead:
        dead.setattr(flows.advance, "_act", dies)
        run_id = flows.start(workflow)
    assert (flows.ran(run_id).statuses, flows.asked(run_id)) == ({"ok": "running"}, [])

    flows.runs.cancel(flows.core.actor, run_id)

    assert flows.ran(run_id).status is RunStatus.CANCELLED
    flows.assert_counted()


@pytest.mark.parametrize("on_failure", ["cancel_running", "finish_running"])
def test_a_run_that_fails_withdraws_the_question_nothing_could_follow(
    flows: Flows, on_failure: str
) -> None:
    steps = {
        "ok": {"approve": "?"},
        "other": {"task": "other"},
        "next": {"task": "n", "needs": ["ok"]},
    }
    run_id = flows.start(flows.define("w", steps, on_failure=on_failure))
    assert len(flows.asked(run_id)) == 1

    flows.drive(lambda *_: FAILS)

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_step) == (RunStatus.FAILED, "other")
    assert (ran.status_of("ok"), ran.status_of("next")) == ("cancelled", "cancelled")
    assert of_question(flows, run_id).status is ApprovalStatus.WITHDRAWN
    flows.assert_counted()


def test_a_deadline_withdraws_the_question(flows: Flows) -> None:
    run_id = started(flows, deadline="1h")
    flows.core.execute("UPDATE workflow_runs SET deadline_at = now() - interval '1 second'")

    assert flows.advance.overdue(10) == 1
    flows.drive()

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "deadline")
    assert ran.status_of("ok") == "cancelled"
    assert of_question(flows, run_id).status is ApprovalStatus.WITHDRAWN
    flows.assert_counted()


def test_of_two_people_who_answer_at_once_one_decides(flows: Flows) -> None:
    for turn in range(10):
        run_id = flows.start(flows.define(f"w{turn}", ORDER))
        flows.drive()
        approval_id = of_question(flows, run_id).id

        def answer(*, approved: bool, asked: UUID = approval_id) -> object:
            try:
                return flows.approvals.answer(flows.core.actor, asked, Answer(approved)).approved
            except ApprovalClosedError as error:
                return error.code

        said = together([lambda: answer(approved=True), lambda: answer(approved=False)])
        flows.drive()

        ran = flows.ran(run_id)
        (decision,) = [each for each in said if each != "approval_closed"]
        assert ran.statuses["ok"] == ("completed" if decision else "denied")
        assert ran.status is RunStatus.COMPLETED
        assert [kind for kind, _ in ran.events()].count("approval_answered") == 1
        flows.assert_counted()


@pytest.mark.parametrize("rival", ["cancel", "expire"])
def test_an_answer_and_what_closes_the_question_exclude_each_other(
    flows: Flows, rival: str
) -> None:
    for turn in range(10):
        run_id = flows.start(flows.define(f"w{turn}", order(on_expiry="skip")))
        flows.drive()
        asked = of_question(flows, run_id)

        def answer(asked: UUID = asked.id) -> object:
            try:
                return flows.approvals.answer(flows.core.actor, asked, Answer(approved=True)).status
            except ApprovalClosedError as error:
                return error.code

        def close(run: UUID = run_id) -> object:
            if rival == "cancel":
                return flows.runs.cancel(flows.core.actor, run).status
            return flows.lapse()

        together([answer, close])
        flows.expire.expire_overdue(10)  # the keeper's next turn: it passes locked runs by
        flows.keep()

        ran, question = flows.ran(run_id), of_question(flows, run_id)
        assert ran.status.terminal
        expected = {
            ApprovalStatus.ANSWERED: "completed",
            ApprovalStatus.EXPIRED: "denied",
            ApprovalStatus.WITHDRAWN: "cancelled",
        }
        assert ran.statuses["ok"] == expected[question.status]
        if rival == "cancel":
            assert ran.status is RunStatus.CANCELLED or ran.statuses["send"] == "completed"
        flows.assert_counted()


def test_the_keeper_goes_on_if_the_process_that_stored_the_answer_has_died(flows: Flows) -> None:
    run_id = started(flows)
    flows.approvals._advance = lambda _: None

    flows.answer(run_id, approved=True)
    assert flows.ran(run_id).statuses["ok"] == "running"
    flows.assert_counted()
    flows.keep()

    assert flows.ran(run_id).status is RunStatus.COMPLETED
    flows.assert_counted()


def test_a_cancellation_goes_down_to_the_questions_below(flows: Flows) -> None:
    flows.define("inner", ORDER)
    run_id = flows.start(flows.define("outer", {"each": {"workflow": "inner", "map": "[1, 2]"}}))
    flows.drive()
    assert len(flows.asked()) == 2

    flows.runs.cancel(flows.core.actor, run_id)
    flows.drive()

    assert {each.status for each in flows.asked(only_open=False)} == {ApprovalStatus.WITHDRAWN}
    assert flows.ran(run_id).status is RunStatus.CANCELLED
    flows.assert_counted()
