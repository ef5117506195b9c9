"""Sending: what is due, what is urgent, what the broker has lost or refuses."""

import pytest

from celeriac.domain.execution import Message
from celeriac.domain.outcome import Completed
from celeriac.domain.states import Status
from celeriac.domain.task import DEFAULT_QUEUE, Priority
from celeriac.services.submit import Request
from tests.support.core import RESEND_SECONDS, Core
from tests.support.together import together

WINDOW = 16


def drain(core: Core) -> list[Message]:
    """Take all messages from the broker."""
    taken = []
    while (envelope := core.queue.take(DEFAULT_QUEUE)) is not None:
        taken.append(envelope.message)
    return taken


def submit(core: Core, **more: object) -> object:
    request = Request(task_id=core.task, **more)  # type: ignore[arg-type]
    return core.submit.one(core.actor, request)


def test_submitted_is_sent_at_once_with_the_address_that_the_row_has(core: Core) -> None:
    submitted = core.submit.one(core.actor, Request(task_id=core.task))
    assert submitted.status is Status.QUEUED
    envelope = core.queue.take(DEFAULT_QUEUE)
    assert envelope is not None
    assert envelope.message == Message(submitted.execution_id, 0)
    assert envelope.celery_task_id == submitted.celery_task_id
    assert core.get(submitted.execution_id).celery_task_id == submitted.celery_task_id


def test_what_is_due_later_is_sent_later(core: Core) -> None:
    submitted = core.submit.one(core.actor, Request(task_id=core.task, delay_seconds=60))
    assert submitted.status is Status.PENDING
    assert core.dispatch.due() == 0
    core.pass_time(61)
    assert core.dispatch.due() == 1
    assert drain(core) == [Message(submitted.execution_id, 0)]


def test_the_broker_holds_a_short_window_and_the_urgent_come_first(core: Core) -> None:
    low = [
        core.submit.one(core.actor, Request(task_id=core.task, priority=Priority.LOW)).execution_id
        for _ in range(WINDOW + 5)
    ]
    urgent = core.submit.one(core.actor, Request(task_id=core.task, priority=Priority.CRITICAL))
    assert core.queue.depth(DEFAULT_QUEUE) == WINDOW
    assert urgent.status is Status.PENDING, "it went past the window"
    claim = core.claim(Message(low[0], 0))
    assert claim is not None
    assert core.dispatch.due() == 1
    assert core.status(urgent.execution_id) is Status.QUEUED, "the less urgent was sent first"


def test_a_broker_that_is_away_costs_nothing_but_time(core: Core) -> None:
    core.queue.away = True
    submitted = core.submit.one(core.actor, Request(task_id=core.task))
    assert submitted.status is Status.PENDING
    assert core.event_types(submitted.execution_id) == ["created", "queued", "unqueued"]
    another = core.submit.one(core.actor, Request(task_id=core.task))
    assert core.event_types(another.execution_id) == ["created"], "it waited for the broker again"
    core.queue.away = False
    core.pass_time(5)
    core.start_afresh()
    assert core.dispatch.due() == 2
    core.assert_consistent()


def test_many_dispatchers_send_each_execution_once(core: Core) -> None:
    ids = core.pending_many([{}] * WINDOW)
    assert sum(together([core.dispatch.due] * 6)) == WINDOW
    assert sorted(message.execution_id for message in drain(core)) == sorted(ids)
    core.assert_consistent()


def test_a_lost_message_is_sent_again(core: Core) -> None:
    execution_id = core.queued()
    core.lose_messages()
    assert core.resend() == 0, "it was given up too soon"
    core.pass_time(RESEND_SECONDS + 1)
    assert core.resend() == 1
    assert core.dispatch.due() == 1
    assert core.claim(core.message(execution_id)) is not None
    assert core.event_types(execution_id) == [
        "created", "queued", "unqueued", "queued", "started",
    ]  # fmt: skip


def test_what_merely_waits_is_not_sent_again(core: Core) -> None:
    for _ in range(5):
        core.queued()
    core.pass_time(3600)
    assert core.resend() == 0
    core.queue.away = True
    assert core.resend() == 0, "nothing can be said of a broker that is away"


@pytest.mark.requirement("B13")
def test_a_lost_message_is_found_under_steady_load_too(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are always younger messages waiting, so the queue is never shorter than what is old."""
    clock = 0.0
    monkeypatch.setattr("celeriac.services.recover.time.monotonic", lambda: clock)
    lost = core.queued()
    core.lose_messages()
    for _ in range(3):
        core.queued()
    for _ in range(40):
        core.queued()
        envelope = core.queue.take(DEFAULT_QUEUE)
        assert envelope is not None
        claim = core.claim(envelope.message)
        assert claim is not None
        core.end(claim, Completed(1))
        core.pass_time(2)
        clock += 2
        core.resend()
        if core.status(lost) is Status.PENDING:
            break
    assert core.status(lost) is Status.PENDING, "it would have waited for ever"
    core.assert_consistent()
