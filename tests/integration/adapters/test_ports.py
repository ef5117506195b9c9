"""What the services may rely on, whichever adapter is behind a port."""

from uuid import UUID, uuid4

import pytest

from celeriac.adapters.redis_events import RedisLiveEvents
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.domain.execution import Message
from celeriac.embedded.ports import reserve_port
from celeriac.services.ports import Envelope, TaskQueue
from tests.integration.adapters.conftest import EventsUnderTest, QueueUnderTest
from tests.support.waiting import wait_until


def envelope(*, queue: str = "task_execution", priority: int = 1, attempt: int = 0) -> Envelope:
    return Envelope(
        message=Message(uuid4(), attempt),
        celery_task_id=str(uuid4()),
        queue=queue,
        priority=priority,
    )


@pytest.mark.requirement("A7")
def test_messages_go_to_their_queues_and_are_counted(tasks: QueueUnderTest) -> None:
    first, second, other = envelope(attempt=2), envelope(), envelope(queue="enrichment")

    tasks.queue.send([first, second, other])

    assert tasks.queue.depth("task_execution") == 2
    assert tasks.queue.depth("enrichment") == 1
    assert tasks.take("task_execution") == first.message
    assert tasks.take("task_execution") == second.message
    assert tasks.take("task_execution") is None
    assert tasks.queue.depth("task_execution") == 0
    assert tasks.take("enrichment") == other.message


def test_a_queue_that_nobody_used_is_empty(tasks: QueueUnderTest) -> None:
    assert tasks.queue.depth("nobody-was-here") == 0


def test_nothing_to_send_is_fine(tasks: QueueUnderTest) -> None:
    tasks.queue.send([])

    assert tasks.queue.depth("task_execution") == 0


@pytest.mark.requirement("C4")
def test_the_more_urgent_goes_first_then_the_older(tasks: QueueUnderTest) -> None:
    low, normal, high, critical = (envelope(priority=priority) for priority in range(4))
    later = envelope(priority=3)

    tasks.queue.send([low, normal])
    tasks.queue.send([high, critical, later])

    taken = [tasks.take("task_execution") for _ in range(5)]
    assert taken == [each.message for each in (critical, later, high, normal, low)]


def test_the_same_message_may_be_sent_twice(tasks: QueueUnderTest) -> None:
    twice = envelope()

    tasks.queue.send([twice])
    tasks.queue.send([twice])

    assert [tasks.take("task_execution") for _ in range(2)] == [twice.message] * 2


def test_a_broker_that_is_away_is_told_from_an_empty_one(unreachable_queue: TaskQueue) -> None:
    with pytest.raises(BrokerUnavailableError):
        unreachable_queue.send([envelope()])
    with pytest.raises(BrokerUnavailableError):
        unreachable_queue.depth("task_execution")


@pytest.mark.requirement("A13")
def test_watchers_hear_changes_and_deltas_of_their_execution_only(events: EventsUnderTest) -> None:
    watched, other = uuid4(), uuid4()
    events.watch(watched)

    events.live.changed([other, watched])
    events.live.delta(other, {"text": "not for us"})
    events.live.delta(watched, {"text": "one"})
    events.live.delta(watched, {"text": "two"})

    expected = [None, {"text": "one"}, {"text": "two"}]
    wait_until(lambda: events.heard() == expected, f"the watcher heard {expected}")


@pytest.mark.requirement("C5")
def test_workers_hear_of_cancellations(events: EventsUnderTest) -> None:
    ids: list[UUID] = [uuid4(), uuid4()]

    events.live.cancel([])
    events.live.cancel(ids)

    wait_until(lambda: events.cancelled() == ids, "the worker heard of both, in order")


def test_live_events_go_nowhere_without_a_server() -> None:
    live = RedisLiveEvents(f"redis://127.0.0.1:{reserve_port()}/0")

    live.changed([uuid4()])
    live.delta(uuid4(), {"text": "lost"})
    live.cancel([uuid4()])

    live.close()
