"""What an execution waits for, and in which order."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.options import NO_OPTIONS
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.executions.why import (
    MOST_COUNTED,
    Facts,
    OpenQuestion,
    ReasonCode,
    Subject,
    SubjectKind,
    why,
)

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
ID = UUID(int=5)
QUESTION = OpenQuestion(UUID(int=7), "May it?", AT, LATER)


def facts(status: Status, **values: Any) -> Facts:
    """Return the facts of an execution with these values; six slots take its queue."""
    known = {"id": UUID(int=1), "queue": "q", "attempt": 0, "created_at": AT, "options": NO_OPTIONS}
    blank = dict.fromkeys(field.name for field in fields(Execution))
    return Facts(Execution(**{**blank, **known, "status": status, **values}), slots=6)


def codes(given: Facts) -> list[ReasonCode]:
    return [reason.code for reason in why(given).reasons]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_what_has_ended_waits_for_nothing(status: Status) -> None:
    found = why(facts(status))
    assert not found.reasons
    assert found.text == f"It is {status}: it waits for nothing."


def test_a_pending_one_that_nothing_holds_up_is_being_sent() -> None:
    found = why(facts(Status.PENDING))
    assert not found.reasons
    assert "being sent" in found.text


@pytest.mark.parametrize(
    ("values", "code", "subject", "until"),
    [
        ({"held": Held.TIME, "available_at": LATER}, ReasonCode.TIME, None, LATER),
        (
            {"held": Held.TIME, "available_at": LATER, "attempt": 2},
            ReasonCode.RETRY, None, LATER,
        ),
        (
            {"held": Held.PARALLEL, "step": "each", "workflow_run_id": ID},
            ReasonCode.STEP_LIMIT, Subject(SubjectKind.WORKFLOW_RUN, str(ID)), None,
        ),
        (
            {"held": Held.PARALLEL, "parent_id": ID},
            ReasonCode.PARENT_LIMIT, Subject(SubjectKind.EXECUTION, str(ID)), None,
        ),
        ({"held": Held.PAUSED}, ReasonCode.PAUSE, None, None),
    ],
    ids=["time", "retry", "step", "parent", "pause"],
)  # fmt: skip
def test_a_held_one_names_what_holds_it(
    values: dict[str, Any], code: ReasonCode, subject: Subject | None, until: datetime | None
) -> None:
    (reason,) = why(facts(Status.PENDING, **values)).reasons
    assert (reason.code, reason.subject, reason.until) == (code, subject, until)


def test_a_retry_says_what_went_wrong() -> None:
    given = facts(Status.PENDING, held=Held.TIME, attempt=2, error_message="It broke.")
    assert why(given).text.startswith("Attempt 2 did not succeed: It broke. ")


def test_without_a_worker_all_that_is_due_later_waits_for_one_too() -> None:
    held = replace(facts(Status.PENDING, held=Held.TIME), slots=0, ahead=3)
    assert codes(held) == [ReasonCode.TIME, ReasonCode.WORKER]
    due = replace(facts(Status.PENDING), slots=0, ahead=3)
    assert codes(due) == [ReasonCode.WORKER]
    sent = replace(facts(Status.QUEUED), slots=0)
    assert codes(sent) == [ReasonCode.WORKER]
    idle = replace(sent, idle_listeners=2)
    assert why(idle).text.startswith("2 worker processes of the queue 'q' take nothing from it now")


def test_others_that_come_first_are_counted() -> None:
    few = replace(facts(Status.PENDING), ahead=3, sent=12)
    (reason,) = why(few).reasons
    assert (reason.code, reason.count) == (ReasonCode.QUEUE, 3)
    assert "3 executions" in reason.text
    assert "12 messages" in reason.text
    assert "1,000 executions or more" in why(replace(few, ahead=MOST_COUNTED)).text


def test_a_sent_one_waits_for_a_slot() -> None:
    (reason,) = why(replace(facts(Status.QUEUED, queued_at=AT), sent=12)).reasons
    assert (reason.code, reason.since, reason.count) == (ReasonCode.SLOT, AT, 12)


@pytest.mark.parametrize(
    ("waiting_for", "code"),
    [
        (WaitingFor.BUDGET, ReasonCode.BUDGET),
        (WaitingFor.PROVIDER_LIMIT, ReasonCode.PROVIDER_LIMIT),
        (WaitingFor.SLEEP, ReasonCode.TIME),
        (WaitingFor.CHILDREN, ReasonCode.CHILDREN),
        (WaitingFor.CHILD, ReasonCode.CHILDREN),
    ],
)
def test_a_parked_one_says_what_it_waits_for(waiting_for: WaitingFor, code: ReasonCode) -> None:
    given = facts(Status.WAITING, waiting_for=waiting_for, waiting_since=AT, waiting_until=LATER)
    (reason,) = why(given).reasons
    assert (reason.code, reason.since) == (code, AT)


@pytest.mark.parametrize("status", [Status.WAITING, Status.RUNNING])
def test_a_question_comes_first(status: Status) -> None:
    given = replace(
        facts(status, waiting_for=WaitingFor.APPROVAL, waiting_since=AT), questions=[QUESTION]
    )
    first = why(given).reasons[0]
    assert (first.code, first.since, first.until) == (ReasonCode.ANSWER, AT, LATER)
    assert first.subject == Subject(SubjectKind.APPROVAL, str(QUESTION.id))


def test_a_running_one_waits_for_its_end_or_for_its_worker_to_stop_it() -> None:
    given = facts(Status.RUNNING, worker_hostname="celery@a/1", attempt=1, started_at=AT)
    assert codes(given) == [ReasonCode.END]
    cancelled = replace(
        given,
        execution=replace(given.execution, cancel_requested_at=LATER, cancel_requested_by="ann"),
    )
    (reason,) = why(cancelled).reasons
    assert (reason.code, reason.since) == (ReasonCode.CANCELLATION, LATER)
    assert reason.text == "ann has requested its cancellation; celery@a/1 is stopping it."


@pytest.mark.parametrize("slots", [0, 6])
@pytest.mark.parametrize("status", list(Status))
def test_each_status_has_an_answer(status: Status, slots: int) -> None:
    assert why(replace(facts(status), slots=slots)).text
