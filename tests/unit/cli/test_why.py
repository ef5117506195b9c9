"""`celeriac why` shows what an execution waits for, with the command that helps."""

from datetime import UTC, datetime, timedelta

from celeriac.cli.why import lines_of
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.why import ReasonCode, SubjectKind
from celeriac.wire import WaitingReason, WaitingReasons, WaitingSubject

QUESTION = "0199f3a2-0000-7000-8000-0b8f6b1d2c11"


def test_reasons_are_numbered_with_their_age_and_the_command() -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    asked = WaitingReason(
        code=ReasonCode.ANSWER,
        text="A person must answer: May\x1b[2J it?",
        subject=WaitingSubject(
            kind=SubjectKind.APPROVAL, id="0199f3a2-0000-7000-8000-0b8f6b1d2c11"
        ),
        since=since,
    )
    worker = WaitingReason(code=ReasonCode.WORKER, text="No worker listens to the queue 'q'.")
    found = WaitingReasons(status=Status.WAITING, text=asked.text, reasons=[asked, worker])
    first, age, command, last = lines_of(found)
    assert first.startswith("1. A person must answer: May")
    assert "\x1b" not in first
    assert age.strip() in {"for 5 min 0 s", "for 5 min 1 s"}
    assert command.strip() == "celeriac approvals answer 0b8f6b1d2c11"
    assert last == "2. No worker listens to the queue 'q'."


def test_without_a_reason_there_is_a_sentence() -> None:
    text = "It is completed: it waits for nothing."
    assert lines_of(WaitingReasons(status=Status.COMPLETED, text=text, reasons=[])) == [text]
