"""Answers: one of many wins, the execution goes on exactly once, and all is written down."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.approvals import Answer, ApprovalStatus, OnExpiry, QuestionKind
from celeriac.domain.errors import (
    AnswerInvalidError,
    ApprovalClosedError,
    CeleriacError,
    ForbiddenError,
    NotFoundError,
)
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import Status, WaitingFor
from tests.support.asking import NO, YES, Asking, a_form, a_question
from tests.support.catalog import make_actor, make_colleague
from tests.support.core import Core
from tests.support.ends import begin_session
from tests.support.outages import holding
from tests.support.together import together

SOON = 60.0


@pytest.fixture
def asking(core: Core) -> Asking:
    return Asking(core)


def test_an_answer_is_written_down_and_sends_the_execution_on(asking: Asking) -> None:
    execution_id = asking.parked()

    answered = asking.answer(execution_id, Answer(approved=True, value={"to": "eve"}, note="ok"))

    assert answered.status is ApprovalStatus.ANSWERED
    assert (answered.approved, answered.value, answered.note) == (True, {"to": "eve"}, "ok")
    assert answered.answered_by == asking.core.actor.name
    assert asking.core.status(execution_id) is Status.QUEUED, "nobody had to wait for the keeper"
    kinds = asking.core.event_types(execution_id)
    assert kinds[-3:] == ["approval_answered", "resumed", "queued"]
    with asking.database.autocommit() as connection:
        query = text("SELECT actor, resource_id FROM audit_logs WHERE action = 'approval.answer'")
        assert connection.execute(query).all() == [(asking.core.actor.name, str(answered.id))]
    given = asyncio.run(asking.questions.answers(execution_id))["mail"]
    assert (given.approved, given.value, given.by) == (True, {"to": "eve"}, asking.core.actor.name)
    asking.core.assert_consistent()


def test_it_goes_on_when_the_last_question_is_answered(asking: Asking) -> None:
    execution_id = asking.parked(a_question("a"), a_question("b"))
    first, second = asking.of(execution_id)

    asking.approvals.answer(asking.core.actor, first.id, NO)
    assert asking.core.status(execution_id) is Status.WAITING
    asking.approvals.answer(asking.core.actor, second.id, YES)

    assert asking.core.status(execution_id) is Status.QUEUED
    asking.core.assert_consistent()


def test_the_same_answer_again_changes_nothing_and_another_is_refused(asking: Asking) -> None:
    execution_id = asking.parked()
    first = asking.answer(execution_id, YES)

    assert asking.answer(execution_id, YES) == first
    with pytest.raises(ApprovalClosedError, match="answered already: approved by user"):
        asking.answer(execution_id, NO)
    assert asking.core.event_types(execution_id).count("approval_answered") == 1


def test_members_of_the_workspace_answer_and_nobody_else(asking: Asking) -> None:
    execution_id = asking.parked()
    approval_id = asking.only(execution_id).id
    viewer = replace(asking.core.actor, role=Role.VIEWER)

    for stranger in (make_actor(asking.database), make_actor(asking.database, Role.ADMIN)):
        with pytest.raises(NotFoundError):
            asking.approvals.answer(stranger, approval_id, YES)
    with pytest.raises(ForbiddenError):
        asking.approvals.answer(viewer, approval_id, YES)
    assert asking.status(execution_id) is ApprovalStatus.OPEN

    colleague = make_colleague(asking.database, asking.core.actor)
    assert asking.approvals.answer(colleague, approval_id, YES).answered_by == colleague.name


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (Answer(approved=True, value={"colour": "blue"}), "value.colour"),
        (Answer(approved=True, value={"colour": "red", "size": 0}), "value.size"),
        (Answer(approved=True, value={"size": 1}), "value"),
        (Answer(approved=True), "value"),
        (Answer(approved=False, value={"colour": "red"}), "value"),
    ],
)
def test_a_form_takes_what_fits_its_schema(asking: Asking, given: Answer, field: str) -> None:
    execution_id = asking.parked(a_form())

    with pytest.raises(AnswerInvalidError) as refused:
        asking.answer(execution_id, given)

    assert refused.value.field == field, refused.value.message
    assert asking.status(execution_id) is ApprovalStatus.OPEN
    assert asking.answer(execution_id, Answer(approved=True, value={"colour": "red"})).approved


def test_each_kind_of_question_has_its_kind_of_value(asking: Asking) -> None:
    tool = asking.parked()
    free = asking.parked(a_question(kind=QuestionKind.QUESTION, tool=None, arguments={}))

    with pytest.raises(AnswerInvalidError, match="object of other arguments"):
        asking.answer(tool, Answer(approved=True, value="text"))
    with pytest.raises(AnswerInvalidError, match="needs a text"):
        asking.answer(free, Answer(approved=True, value="  "))
    assert asking.answer(free, Answer(approved=True, value="because")).value == "because"


def test_of_many_answers_at_once_one_wins_and_it_goes_on_once(asking: Asking) -> None:
    execution_id = asking.parked()
    wishes = [YES, NO, Answer(approved=True, note="mine"), Answer(approved=True, value={"to": 1})]

    def answering(given: Answer) -> str:
        try:
            asking.answer(execution_id, given)
        except ApprovalClosedError as error:
            return error.code
        return "won"

    outcomes = together([partial(answering, given) for given in wishes])

    assert sorted(outcomes) == ["approval_closed"] * 3 + ["won"]
    kinds = asking.core.event_types(execution_id)
    assert (kinds.count("approval_answered"), kinds.count("resumed")) == (1, 1)
    asking.core.assert_consistent()


def test_an_answer_that_meets_the_parking_lets_it_go_on_all_the_same(asking: Asking) -> None:
    parking = Parked(WaitingFor.APPROVAL, "It asks again.", questions=(a_question(),))
    for _ in range(8):
        claim = asking.core.running()
        execution_id = claim.lease.execution_id
        asking.ask_in_place(claim.lease, a_question())

        together(
            [
                partial(asking.core.end, claim, parking),
                partial(asking.answer, execution_id),
            ]
        )

        assert asking.core.status(execution_id) in {Status.PENDING, Status.QUEUED}
        assert asking.core.event_types(execution_id).count("resumed") == 1
        # one that is due and not sent is not overtaken by the next round's
        asking.core.dispatch.send_due()
    asking.core.assert_consistent()


@pytest.mark.parametrize("on_expiry", list(OnExpiry))
def test_nobody_answers_in_time(asking: Asking, on_expiry: OnExpiry) -> None:
    question = a_question(expires_seconds=SOON, on_expiry=on_expiry, default={"to": "default"})
    execution_id = asking.parked(question)
    assert asking.expire.expire_overdue(10) == 0, "there is time left"
    asking.pass_time(SOON + 1)

    with pytest.raises(ApprovalClosedError, match="has expired"):
        asking.answer(execution_id)
    assert asking.expire.expire_overdue(10) == 1
    assert asking.expire.expire_overdue(10) == 0

    found = asking.only(execution_id)
    assert found.status is ApprovalStatus.EXPIRED
    assert found.approved is (on_expiry is OnExpiry.APPROVE)
    assert found.value == ({"to": "default"} if on_expiry is OnExpiry.APPROVE else None)
    row = asking.core.get(execution_id)
    if on_expiry is OnExpiry.FAIL:
        assert (row.status, row.error_code) == (Status.FAILED, "approval_expired")
    else:
        assert row.status is Status.PENDING, "the keeper sends it in the same turn"
    asking.core.assert_consistent()


@pytest.mark.parametrize("table", ["sessions", "approvals"])
def test_a_locked_session_or_question_delays_no_other_expiry(asking: Asking, table: str) -> None:
    question = a_question(expires_seconds=SOON, on_expiry=OnExpiry.FAIL)
    claim = asking.core.running()
    begin_session(asking.core, claim)
    asking.core.end(claim, Parked(WaitingFor.APPROVAL, "It asks.", questions=(question,)))
    locked, other = claim.lease.execution_id, asking.parked(question)
    asking.pass_time(SOON + 1)
    lock = f"SELECT id FROM {table} WHERE execution_id = '{locked}' FOR UPDATE"
    with holding(asking.database.engine.url, lock):
        assert asking.expire.expire_overdue(10) == 1
        assert asking.core.status(other) is Status.FAILED
    assert asking.expire.expire_overdue(10) == 1
    assert asking.core.status(locked) is Status.FAILED
    asking.core.assert_consistent()


def test_answers_expiries_and_cancellations_at_once_end_in_one_of_them(asking: Asking) -> None:
    question = a_question(expires_seconds=SOON, on_expiry="fail")

    def answer(execution_id: UUID) -> None:
        with suppress(CeleriacError):
            asking.answer(execution_id)

    for _ in range(8):
        execution_id = asking.parked(question)
        asking.pass_time(SOON)

        together(
            [
                partial(answer, execution_id),
                partial(asking.expire.expire_overdue, 10),
                partial(asking.core.cancel, asking.core.actor, [execution_id]),
                partial(asking.expire.expire_overdue, 10),
            ]
        )

        assert asking.core.status(execution_id) in {Status.FAILED, Status.CANCELLED, Status.QUEUED}
        assert asking.status(execution_id) is not ApprovalStatus.OPEN
    asking.core.assert_consistent()
