"""Approval steps of workflows: asked once, answered once, and the run goes on accordingly."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.approvals import (
    Answer,
    Approval,
    ApprovalFilter,
    ApprovalStatus,
    OnExpiry,
    QuestionKind,
)
from celeriac.domain.errors import (
    AnswerInvalidError,
    ApprovalClosedError,
    CeleriacError,
    DatabaseUnavailableError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.approvals.answer import Link
from celeriac.services.workflows.again import ForkRequest
from tests.support.catalog import make_actor
from tests.support.core import Core
from tests.support.together import together
from tests.support.workflows import FAILS, Flows

_ALL = ApprovalFilter()

pytestmark = pytest.mark.requirement("E3")

SEES = {"answer": "${{ steps.ok.result }}", "status": "${{ steps.ok.status }}"}
ORDER: dict[str, Any] = {
    "draft": {"task": "draft", "with": {"text": "hello"}},
    "ok": {"approve": "Send it?", "show": {"draft": "${{ steps.draft.result.text }}"}},
    "send": {"task": "send", "with": SEES},
    "report": {"task": "report", "with": SEES, "run": "always"},
}


@pytest.fixture
def flows(core: Core) -> Flows:
    return Flows(core)


def order(**ok: Any) -> dict[str, Any]:
    return {**ORDER, "ok": ORDER["ok"] | ok}


def started(flows: Flows, steps: dict[str, Any] = ORDER, **fields: Any) -> UUID:
    """Start a run, and let everything run that needs no answer."""
    run_id = flows.start(flows.define("w", steps, **fields))
    flows.drive()
    return run_id


def reported(flows: Flows, run_id: UUID) -> Any:
    """Return what the step `report` was given: what expressions see of the approval."""
    (item,) = flows.ran(run_id).items("report")
    return item.result


def of_question(flows: Flows, run_id: UUID) -> Approval:
    (asked,) = flows.asked(run_id, only_open=False)
    return asked


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


def test_many_questions_of_one_run_expire_together(flows: Flows) -> None:
    steps = {f"q{n}": {"approve": "?", "expires": 60, "on_expiry": "skip"} for n in range(5)}
    run_id = started(flows, steps)
    assert len(flows.asked(run_id)) == 5

    assert flows.lapse() == 5

    ran = flows.ran(run_id)
    assert (ran.status, set(ran.statuses.values())) == (RunStatus.COMPLETED, {"denied"})
    flows.assert_counted()


def test_a_condition_that_does_not_hold_asks_nobody(flows: Flows) -> None:
    run_id = started(flows, order(when="1 > 2"))

    ran = flows.ran(run_id)
    assert (ran.status, ran.status_of("ok"), flows.asked(only_open=False)) == (
        RunStatus.COMPLETED, "skipped", [],
    )  # fmt: skip


# What withdraws a question


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


# At the same time


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


# Below, again


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


# Who may


def test_who_may_not_answer_learns_nothing_and_moves_nothing(flows: Flows) -> None:
    run_id = started(flows)
    asked = of_question(flows, run_id)
    stranger = make_actor(flows.core.database)
    viewer = flows.core.actor.__class__(
        user_id=flows.core.actor.user_id, name="vi", role=Role.VIEWER,
        workspace_id=flows.core.actor.workspace_id,
    )  # fmt: skip

    for attempt in (
        lambda: flows.approvals.answer(stranger, asked.id, Answer(approved=True)),
        lambda: flows.approvals.get(stranger, asked.id),
        lambda: flows.approvals.get_for_link(stranger, asked.id),
        lambda: flows.approvals.revoke_links(stranger, asked.id),
    ):
        with pytest.raises(NotFoundError) as error:
            attempt()
        assert "Send it" not in str(error.value)
    assert list(flows.approvals.find(stranger, _ALL).items) == []
    with pytest.raises(ForbiddenError):
        flows.approvals.answer(viewer, asked.id, Answer(approved=True))
    assert flows.ran(run_id).statuses["ok"] == "running"
    assert flows.asked(run_id) == [asked]


def test_a_link_answers_and_its_user_is_who_started_the_run(flows: Flows) -> None:
    run_id = started(flows)
    asked = of_question(flows, run_id)
    link = Link(asked.id, flows.core.actor.user_id, asked.links_revoked)

    flows.approvals.answer_by_link(link, Answer(approved=True), request_id=None)
    flows.drive()

    assert (asked.owner_id, flows.ran(run_id).status) == (
        flows.core.actor.user_id, RunStatus.COMPLETED,
    )  # fmt: skip
    assert reported(flows, run_id)["answer"]["by"] == "approval link"


def test_answers_are_in_the_audit_trail_and_name_run_and_step(flows: Flows) -> None:
    run_id = started(flows)
    asked = flows.answer(run_id, approved=False)

    with flows.core.database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT resource_id, details FROM audit_logs WHERE action = 'approval.answer'")
        ).all()
    assert [tuple(row) for row in rows] == [
        (str(asked.id), {"run_id": str(run_id), "step": "ok", "approved": False})
    ]


def test_an_answer_with_a_value_is_refused_and_the_same_answer_changes_nothing(
    flows: Flows,
) -> None:
    run_id = started(flows)
    asked = of_question(flows, run_id)
    with pytest.raises(AnswerInvalidError, match="has no value") as error:
        flows.approvals.answer(flows.core.actor, asked.id, Answer(approved=True, value={"a": 1}))
    assert error.value.field == "value"

    first = flows.answer(run_id, approved=True, note="ok")
    again = flows.approvals.answer(flows.core.actor, asked.id, Answer(approved=True, note="ok"))

    assert first == again
    with pytest.raises(ApprovalClosedError, match="approved by"):
        flows.approvals.answer(flows.core.actor, asked.id, Answer(approved=False))


# What people are shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a \x00 b \x1b[31m \u202e \ud83d\ude00", {"show": "a \ufffd b \x1b[31m \u202e 😀"}),
        ([1, None, {"a": 2}], {"show": [1, None, {"a": 2}]}),
        ({"a": {"b": []}}, {"a": {"b": []}}),
        (None, {}),
        (0, {"show": 0}),
    ],
)
def test_any_value_is_shown_as_an_object(flows: Flows, given: Any, shown: Any) -> None:
    given = (
        given.encode("utf-16", "surrogatepass").decode("utf-16")
        if isinstance(given, str)
        else given
    )
    steps = {"ok": {"approve": "?", "show": "${{ input.x }}"}}
    flows.start(flows.define("w", steps, input={"x": {}}), x=given)

    (asked,) = flows.asked()
    assert asked.arguments == shown


def test_a_huge_show_is_clipped_and_secrets_of_events_are_masked(flows: Flows) -> None:
    steps = {"ok": {"approve": "?", "show": "${{ input.x }}"}}
    huge = {"rows": ["x" * 5_000] * 1_000, "password": "hunter2-hunter2"}
    run_id = flows.start(flows.define("w", steps, input={"x": {}}), x=huge)

    (asked,) = flows.asked()
    assert len(str(asked.arguments)) < 210_000
    (event,) = [data for kind, data in flows.ran(run_id).events() if kind == "approval_asked"]
    assert len(str(event)) < 25_000
    assert "hunter2" not in str(event)


def test_a_show_that_has_no_value_fails_the_step_and_asks_nobody(flows: Flows) -> None:
    steps = order(show="${{ steps.draft.result.missing }}")
    run_id = started(flows, steps)

    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code, flows.asked(only_open=False)) == (
        RunStatus.FAILED, "expression_error", [],
    )  # fmt: skip
    flows.assert_counted()


def test_a_map_of_approvals_is_refused_before_anything_is_stored(flows: Flows) -> None:
    for field in ({"map": "[1]"}, {"repeat": {"until": "true", "max": 2}}):
        with pytest.raises(CeleriacError, match="an approval runs nothing"):
            flows.define("w", {"ok": {"approve": "?", **field}})
