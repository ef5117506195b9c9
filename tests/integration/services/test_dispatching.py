"""Sending: what is due, what is urgent, what the broker has lost or refuses."""

import pytest

from celeriac.domain.executions.model import Completed, Message, SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from tests.support.core import RESEND_SECONDS, Core, report_worker
from tests.support.together import together

WINDOW = 16


def drain(core: Core) -> list[Message]:
    """Take all messages from the broker."""
    taken = []
    while (envelope := core.queue.take(DEFAULT_QUEUE)) is not None:
        taken.append(envelope.message)
    return taken


def submit(core: Core, **more: object) -> object:
    request = SubmitRequest(task_id=core.task, **more)  # type: ignore[arg-type]
    return core.submit(core.actor, request)


def test_submitted_is_sent_at_once_with_the_address_that_the_row_has(core: Core) -> None:
    submitted = core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert submitted.status is Status.QUEUED
    envelope = core.queue.take(DEFAULT_QUEUE)
    assert envelope is not None
    assert envelope.message == Message(submitted.execution_id, 0, str(submitted.celery_task_id))
    assert core.get(submitted.execution_id).celery_task_id == submitted.celery_task_id


def test_what_is_due_later_is_sent_later(core: Core) -> None:
    submitted = core.submit(core.actor, SubmitRequest(task_id=core.task, delay_seconds=60))
    assert submitted.status is Status.PENDING
    assert core.dispatch.send_due() == 0
    core.pass_time(61)
    assert core.dispatch.send_due() == 1
    assert drain(core) == [core.message(submitted.execution_id)]


def test_the_broker_holds_a_short_window_and_the_urgent_come_first(core: Core) -> None:
    low = [
        core.submit(
            core.actor, SubmitRequest(task_id=core.task, priority=Priority.LOW)
        ).execution_id
        for _ in range(WINDOW + 5)
    ]
    urgent = core.submit(core.actor, SubmitRequest(task_id=core.task, priority=Priority.CRITICAL))
    assert core.queue.depth(DEFAULT_QUEUE) == WINDOW
    assert urgent.status is Status.PENDING, "it went past the window"
    claim = core.claim(core.message(low[0]))
    assert claim is not None
    assert core.dispatch.send_due() == 1
    assert core.status(urgent.execution_id) is Status.QUEUED, "the less urgent was sent first"


def test_a_queue_holds_twice_as_many_as_the_workers_that_listen_to_it_can_run(core: Core) -> None:
    report_worker(core, 40, DEFAULT_QUEUE, "gpu")
    report_worker(core, 60, DEFAULT_QUEUE)
    report_worker(core, 500, "other")
    assert core.dispatch.capacity(DEFAULT_QUEUE) == 200
    assert core.dispatch.capacity("gpu") == 80
    assert core.dispatch.capacity("nobody") == WINDOW

    for queue in (DEFAULT_QUEUE, "gpu", "nobody"):
        core.submit.batch(core.actor, SubmitRequest(task_id=core.task, queue=queue), [{}] * 220)
    assert core.dispatch.send_due() == 200 + 80 + WINDOW
    depths = {queue: core.queue.depth(queue) for queue in (DEFAULT_QUEUE, "gpu", "nobody")}
    assert depths == {DEFAULT_QUEUE: 200, "gpu": 80, "nobody": WINDOW}


def test_workers_that_do_not_say_count_for_every_queue_and_idle_consumers_for_none(
    core: Core,
) -> None:
    report_worker(core, 30, consuming=None)
    report_worker(core, 40, "gpu")
    report_worker(core, 500, "gpu", consuming=False)
    assert core.dispatch.capacity("gpu") == 140
    assert core.dispatch.capacity(DEFAULT_QUEUE) == 60
    core.pending_many([{}] * 70)
    assert core.dispatch.send_due() == 60


def test_a_small_worker_has_a_small_window_and_one_that_is_starting_has_one_too(
    core: Core,
) -> None:
    report_worker(core, 500, DEFAULT_QUEUE, consuming=False)
    assert core.dispatch.capacity(DEFAULT_QUEUE) == WINDOW, "nobody could begin"
    report_worker(core, 2, DEFAULT_QUEUE)
    assert core.dispatch.capacity(DEFAULT_QUEUE) == 4
    core.pending_many([{}] * 5)
    assert core.dispatch.send_due() == 4


def test_messages_of_one_dispatch_are_sent_in_their_order(core: Core) -> None:
    ids = {}
    for priority in (Priority.LOW, Priority.CRITICAL, Priority.NORMAL):
        request = SubmitRequest(task_id=core.task, priority=priority)
        ids[core.submit.batch(core.actor, request, [{}]).execution_ids[0]] = priority
    assert core.dispatch.send_due() == 3
    assert [ids[message.execution_id] for message in drain(core)] == [
        Priority.CRITICAL, Priority.NORMAL, Priority.LOW,
    ]  # fmt: skip


@pytest.mark.requirement("C4")
def test_a_new_execution_overtakes_none_that_is_due_and_as_urgent(core: Core) -> None:
    core.pending_many([{}])
    assert _submitted(core, Priority.LOW) is Status.PENDING
    assert _submitted(core, Priority.NORMAL) is Status.PENDING
    assert _submitted(core, Priority.HIGH) is Status.QUEUED, "what waits is less urgent"
    assert _submitted(core, Priority.NORMAL, queue="other") is Status.QUEUED
    assert core.dispatch.send_due() == 3
    assert _submitted(core, Priority.NORMAL) is Status.QUEUED, "nothing waits any more"


def test_what_is_due_later_is_no_reason_to_wait(core: Core) -> None:
    core.submit(core.actor, SubmitRequest(task_id=core.task, delay_seconds=60))
    assert _submitted(core, Priority.LOW) is Status.QUEUED


def _submitted(core: Core, priority: Priority, queue: str | None = None) -> Status:
    request = SubmitRequest(task_id=core.task, priority=priority, queue=queue)
    return core.submit(core.actor, request).status


def test_a_broker_that_is_away_costs_nothing_but_time(core: Core) -> None:
    core.queue.away = True
    submitted = core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert submitted.status is Status.PENDING
    assert core.event_types(submitted.execution_id) == ["created", "queued", "unqueued"]
    another = core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert core.event_types(another.execution_id) == ["created"], "it waited for the broker again"
    core.queue.away = False
    core.pass_time(5)
    core.start_afresh()
    assert core.dispatch.send_due() == 2
    core.assert_consistent()


def test_many_dispatchers_send_each_execution_once(core: Core) -> None:
    ids = core.pending_many([{}] * WINDOW)
    assert sum(together([core.dispatch.send_due] * 6)) == WINDOW
    assert sorted(message.execution_id for message in drain(core)) == sorted(ids)
    core.assert_consistent()


def test_a_lost_message_is_sent_again(core: Core) -> None:
    execution_id = core.queued()
    core.lose_messages()
    assert core.resend() == 0, "it was given up too soon"
    core.pass_time(RESEND_SECONDS + 1)
    assert core.resend() == 1
    assert core.dispatch.send_due() == 1
    assert core.claim(core.message(execution_id)) is not None
    assert core.event_types(execution_id) == [
        "created", "queued", "unqueued", "queued", "started",
    ]  # fmt: skip


def test_what_is_sent_again_has_kept_its_place(core: Core) -> None:
    lost = core.queued()
    core.lose_messages()
    core.pass_time(RESEND_SECONDS + 1)
    core.pending()
    assert core.resend() == 1
    core.dispatch.send_due()
    assert drain(core)[0].execution_id == lost


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
    monkeypatch.setattr("celeriac.services.executions.rescue.time.monotonic", lambda: clock)
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
