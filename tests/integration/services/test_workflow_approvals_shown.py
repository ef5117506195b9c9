"""Approval steps: who may answer, what is shown, and what is recorded."""

from typing import Any

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.approvals import (
    Answer,
    ApprovalFilter,
)
from celeriac.domain.errors import (
    AnswerInvalidError,
    ApprovalClosedError,
    CeleriacError,
    ForbiddenError,
    NotFoundError,
)
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.approvals.answer import Link
from tests.support.catalog import make_actor
from tests.support.workflow_approvals import of_question, order, reported, started
from tests.support.workflows import Flows

_ALL = ApprovalFilter()


pytestmark = pytest.mark.requirement("E3")


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
