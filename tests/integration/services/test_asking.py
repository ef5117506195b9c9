"""Questions of attempts: stored once, numbered without a gap, clipped where they are shown."""

import asyncio
from functools import partial

import pytest

from celeriac.domain.approvals import ApprovalStatus
from celeriac.domain.errors import ApprovalExpiredError, LeaseLostError
from celeriac.domain.executions.model import HandedBack, Parked, Stopped
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import Limits
from celeriac.services.approvals.ask import Questions
from celeriac.services.time_limits import TimeLimits
from tests.support.asking import NO, YES, Asking, InPlace, a_form, a_question
from tests.support.core import Core
from tests.support.waiting import wait_until


@pytest.fixture
def asking(core: Core) -> Asking:
    return Asking(core)


def test_a_parked_attempts_questions_come_with_an_event_each(asking: Asking) -> None:
    execution_id = asking.parked(a_question("a"), a_question("b"), a_question("a", title="Again?"))

    assert [(each.key, each.title) for each in asking.of(execution_id)] == [
        ("a", "May it be sent?"),
        ("b", "May it be sent?"),
    ]
    kinds = asking.core.event_types(execution_id)
    assert kinds[-3:] == ["approval_asked", "approval_asked", "waiting"]
    data = asking.core.events(execution_id)[-3].data
    assert data["approval_id"] == str(asking.of(execution_id)[0].id)
    assert data["arguments"] == {"to": "ada@example.com"}
    asking.core.assert_consistent()


def test_arguments_in_the_event_are_clipped_and_without_secrets(asking: Asking) -> None:
    arguments = {
        "token": "t0psecret",
        "body": "dear Ada" * 10_000,
        "url": "https://a:b@shop.example",
    }
    execution_id = asking.parked(
        a_question("long", arguments=arguments),
        a_question("short", arguments={"password": "t0psecret", "n": 1}),
        a_question("none", arguments={}),
    )
    long, short, none = (event.data for event in asking.core.events(execution_id)[-4:-1])
    assert isinstance(long["arguments"], str)
    assert len(long["arguments"]) < 21_000
    assert "more)" in long["arguments"]
    assert "t0psecret" not in long["arguments"] + str(short)
    assert short["arguments"] == {"password": "***", "n": 1}
    assert "arguments" not in none
    assert asking.of(execution_id)[0].arguments == arguments, "who answers sees all of it"


def test_an_attempt_that_was_cancelled_meanwhile_asks_nothing(asking: Asking) -> None:
    claim = asking.core.running()
    asking.core.cancel(asking.core.actor, [claim.lease.execution_id])

    ended = asking.core.end(claim, Parked(WaitingFor.APPROVAL, "asks", questions=(a_question(),)))

    assert ended.status is Status.CANCELLED
    assert asking.of(claim.lease.execution_id) == []
    asking.core.assert_consistent()


def test_a_known_question_is_not_asked_again_and_its_answer_lets_it_go_on(asking: Asking) -> None:
    execution_id = asking.parked()
    asking.answer(execution_id)
    again = asking.core.claim(asking.core.message(execution_id))
    assert again is not None, "the answer has sent it to the workers"

    asking.core.end(again, Parked(WaitingFor.APPROVAL, "asks", questions=(a_question(),)))

    assert asking.core.status(execution_id) is Status.PENDING, "all is answered: it goes on"
    assert asking.core.event_types(execution_id).count("approval_asked") == 1
    asking.core.assert_consistent()


def test_an_attempt_waits_in_its_place_for_the_answer(asking: Asking) -> None:
    claim = asking.core.running()
    waiting = asking.ask_in_place(claim.lease, a_question())
    same = asking.ask_in_place(claim.lease, a_question())

    asking.answer(claim.lease.execution_id, NO)

    for each in (waiting, same):
        assert (each.result().approved, each.result().note) == (False, "better not")
    assert asking.core.status(claim.lease.execution_id) is Status.RUNNING
    kinds = asking.core.event_types(claim.lease.execution_id)
    assert kinds[-2:] == ["approval_asked", "approval_answered"]
    asking.core.assert_consistent()


def test_the_same_asked_many_times_at_once_is_one_question(asking: Asking) -> None:
    claim = asking.core.running()
    ask = partial(asking.questions.ask, claim.lease, a_question())
    waiting = [InPlace(lambda: asyncio.run(ask())) for _ in range(6)]
    wait_until(lambda: asking.of(claim.lease.execution_id), "it is stored")

    asking.answer(claim.lease.execution_id)

    assert [each.result().approved for each in waiting] == [True] * 6
    assert asking.core.event_types(claim.lease.execution_id).count("approval_asked") == 1
    asking.core.assert_consistent()


def test_another_attempt_asks_under_the_same_key_and_gets_the_same_answer(asking: Asking) -> None:
    claim = asking.core.running()
    asking.ask_in_place(claim.lease, a_question())
    asking.core.end(claim, HandedBack())
    asking.answer(claim.lease.execution_id)
    asking.core.dispatch.send_due()
    again = asking.core.claim(asking.core.message(claim.lease.execution_id))
    assert again is not None

    answer = asking.ask_in_place(again.lease, a_question()).result()

    assert answer.approved
    assert len(asking.of(claim.lease.execution_id)) == 1
    asking.core.assert_consistent()


def test_who_lost_the_lease_asks_nothing(asking: Asking) -> None:
    claim = asking.core.running()
    asking.core.end(claim, HandedBack())

    with pytest.raises(LeaseLostError):
        asking.ask_in_place(claim.lease, a_question()).result()

    assert asking.of(claim.lease.execution_id) == []


def test_a_question_in_place_whose_expiry_fails_raises(asking: Asking) -> None:
    claim = asking.core.running()
    waiting = asking.ask_in_place(claim.lease, a_question(on_expiry="fail", expires_seconds=60))
    asking.pass_time(61)

    assert asking.expire.expire_overdue(10) == 1

    with pytest.raises(ApprovalExpiredError, match="May it be sent"):
        waiting.result()
    assert asking.core.status(claim.lease.execution_id) is Status.RUNNING, "its worker ends it"
    asking.core.assert_consistent()


def test_hostile_texts_are_stored_and_large_ones_are_clipped(asking: Asking) -> None:
    question = a_question(
        "nul\x00\ud800",
        title="t" * 5_000 + "\x00",
        arguments={"text": "x" * 500_000, "nul": "\x00", "deep": [{"a": "y" * 3_000}]},
    )

    found = asking.only(asking.parked(question))

    assert found.key == "nul\ufffd?"
    assert found.title.startswith("tttt")
    assert found.title.endswith("(1,001 characters more)")
    assert found.arguments["text"].endswith("(498,000 characters more)")
    assert found.arguments["nul"] == "\ufffd"
    asking.core.assert_consistent()


def test_a_forms_fields_keep_their_order(asking: Asking) -> None:
    properties = {"colour": {"type": "string"}, "size": {"type": "integer"}, "a": {}}
    schema = {"type": "object", "properties": properties}

    found = asking.only(asking.parked(a_form(schema=schema, arguments=properties)))

    assert found.schema is not None
    assert list(found.schema["properties"]) == list(found.arguments) == ["colour", "size", "a"]


def test_who_waits_in_place_learns_that_the_question_is_withdrawn(asking: Asking) -> None:
    claim = asking.core.running()
    in_place = asking.ask_in_place(claim.lease, a_question())
    left_open = asking.parked()
    asking.core.cancel(asking.core.actor, [claim.lease.execution_id])
    assert asking.status(claim.lease.execution_id) is ApprovalStatus.OPEN, "it still runs"

    asking.core.finish(claim, Stopped(), (), None, has_rows=True)

    with pytest.raises(LeaseLostError):
        in_place.result()
    assert asking.status(left_open) is ApprovalStatus.OPEN
    assert asking.answer(left_open, YES).status is ApprovalStatus.ANSWERED


def test_the_time_paused_until_the_last_open_question_is_answered(asking: Asking) -> None:
    limits, core, claim = TimeLimits(), asking.core, asking.core.running()
    limits.begin(Limits(soft_seconds=1, hard_seconds=2))
    asking.questions = Questions(
        core.database, core.live, pause_clock=lambda _lease: limits.pause()
    )
    first = asking.ask_in_place(claim.lease, a_question("a"))
    second = asking.ask_in_place(claim.lease, a_question("b"))
    wait_until(lambda: limits.paused, "the time stands still")
    by_key = {each.key: each.id for each in asking.of(claim.lease.execution_id)}

    asking.approvals.answer(core.actor, by_key["a"], YES)
    first.result()
    assert limits.paused
    asking.approvals.answer(core.actor, by_key["b"], YES)
    second.result()

    assert not limits.paused
