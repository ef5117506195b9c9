"""What the services may rely on, whichever adapter is behind a port."""

from contextlib import ExitStack
from uuid import UUID, uuid4

import pytest
from amqp.exceptions import ChannelError, ConnectionForced
from kombu.exceptions import BatchPublishError, EncodeError, LimitExceeded, OperationalError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celeriac.adapters import celery_queue as celery_app_module
from celeriac.adapters.celery_queue import CeleryTaskQueue
from celeriac.adapters.redis_events import CancelListener, RedisLiveEvents, cancel_channel
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.domain.executions.model import Cause, Message, QueuedMessage
from celeriac.embedded.home import reserve_port
from celeriac.services.ports import TaskQueue
from tests.integration.adapters.conftest import EventsUnderTest, QueueUnderTest, celery_app
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until


def queued(*, queue: str = "task_execution", priority: int = 1, attempt: int = 0) -> QueuedMessage:
    return QueuedMessage(
        message=Message(uuid4(), attempt, str(uuid4())),
        queue=queue,
        priority=priority,
        cause=Cause(None, uuid4(), uuid4()),
    )


@pytest.mark.requirement("A7")
def test_messages_go_to_their_queues_and_are_counted(tasks: QueueUnderTest) -> None:
    first, second, other = queued(attempt=2), queued(), queued(queue="enrichment")

    tasks.queue.send([first, second, other])

    assert tasks.queue.depth("task_execution") == 2
    assert tasks.queue.depth("enrichment") == 1
    assert tasks.take("task_execution") == first.message
    assert tasks.take("task_execution") == second.message
    assert tasks.take("task_execution") is None
    assert tasks.queue.depth("task_execution") == 0
    assert tasks.take("enrichment") == other.message


def test_an_unused_queue_is_empty(tasks: QueueUnderTest) -> None:
    assert tasks.queue.depth("unused") == 0


def test_nothing_to_send_is_fine(tasks: QueueUnderTest) -> None:
    tasks.queue.send([])

    assert tasks.queue.depth("task_execution") == 0


@pytest.mark.requirement("C4")
def test_the_more_urgent_goes_first_then_the_older(tasks: QueueUnderTest) -> None:
    low, normal, high, critical = (queued(priority=priority) for priority in range(4))
    later = queued(priority=3)

    tasks.queue.send([low, normal])
    tasks.queue.send([high, critical, later])
    assert tasks.queue.depth("task_execution") == 5, "with all priorities"

    taken = [tasks.take("task_execution") for _ in range(5)]
    assert taken == [each.message for each in (critical, later, high, normal, low)]


def test_the_same_message_may_be_sent_twice(tasks: QueueUnderTest) -> None:
    twice = queued()

    tasks.queue.send([twice])
    tasks.queue.send([twice])

    assert [tasks.take("task_execution") for _ in range(2)] == [twice.message] * 2


def test_an_unreachable_broker_differs_from_an_empty_one(unreachable_queue: TaskQueue) -> None:
    with pytest.raises(BrokerUnavailableError):
        unreachable_queue.send([queued()])
    with pytest.raises(BrokerUnavailableError):
        unreachable_queue.depth("task_execution")


@pytest.mark.requirement("A13")
def test_watchers_receive_changes_and_deltas_of_their_execution_only(
    events: EventsUnderTest,
) -> None:
    watched, other = uuid4(), uuid4()
    events.watch(watched)

    events.live.changed([other, watched])
    events.live.delta(other, {"text": "not for us"})
    events.live.delta(watched, {"text": "one"})
    events.live.delta(watched, {"text": "two"})

    expected = [None, {"text": "one"}, {"text": "two"}]
    wait_until(lambda: events.heard() == expected, f"the watcher received {expected}")


@pytest.mark.requirement("C5")
def test_workers_receive_cancellations(events: EventsUnderTest) -> None:
    ids: list[UUID] = [uuid4(), uuid4()]

    events.live.cancel([])
    events.live.cancel(ids)

    wait_until(lambda: events.cancelled() == ids, "the worker received both, in order")


def test_live_events_go_nowhere_without_a_server() -> None:
    live = RedisLiveEvents(f"redis://127.0.0.1:{reserve_port()}/0")

    live.changed([uuid4()])
    live.delta(uuid4(), {"text": "lost"})
    live.cancel([uuid4()])

    live.close()


def test_invalid_cancellations_are_ignored(valkey_server: ValkeyServer) -> None:
    heard: list[UUID] = []
    listener = CancelListener(valkey_server.url(), heard.extend)
    listener.start()
    wanted = uuid4()
    with Redis.from_url(valkey_server.url()) as client:
        wait_until(
            lambda: client.pubsub_numsub(cancel_channel())[0][1] == 1, "the listener is subscribed"
        )
        for word in ("garbage", b"\xff", "5", "null", "{}", '["x", 5, null, []]', "[" * 5000):
            client.publish(cancel_channel(), word)
        client.publish(cancel_channel(), f'["{wanted}"]')
    wait_until(lambda: heard == [wanted], "the message after them is received")
    listener.close()


_ERRORS: list[Exception] = [
    LimitExceeded(1), EncodeError("x"), ChannelError("x"), RedisConnectionError("x"),
    ResponseError("OOM command not allowed"), RedisTimeoutError("x"), OSError("x"),
    OperationalError("x"), BatchPublishError("x"), ConnectionForced("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_publishing_raises_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch, valkey_server: ValkeyServer, error: Exception
) -> None:
    app = celery_app(valkey_server.url(1))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "send_task", fail)
    with pytest.raises(BrokerUnavailableError):
        CeleryTaskQueue(app).send([queued()])
    app.close()


def test_a_pool_without_a_free_producer_is_a_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch, valkey_server: ValkeyServer
) -> None:
    monkeypatch.setattr(celery_app_module, "_POOL_SECONDS", 0.05)
    app = celery_app(valkey_server.url(1))
    with ExitStack() as others:
        for _ in range(app.producer_pool.limit):
            others.enter_context(app.producer_pool.acquire())
        with pytest.raises(BrokerUnavailableError):
            CeleryTaskQueue(app).send([queued()])
    app.close()


def test_a_full_server_is_a_broker_that_is_away(valkey_server: ValkeyServer) -> None:
    app = celery_app(valkey_server.url(1))
    with Redis.from_url(valkey_server.url()) as client:
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
        try:
            with pytest.raises(BrokerUnavailableError):
                CeleryTaskQueue(app).send([queued(), queued()])
        finally:
            client.config_set("maxmemory", "0")
    app.close()


def test_many_are_published_in_few_round_trips(valkey_server: ValkeyServer) -> None:
    valkey_server.flush()
    app = celery_app(valkey_server.url(1))
    queue = CeleryTaskQueue(app)
    queue.send([queued()])
    with Redis.from_url(valkey_server.url()) as client:
        before = client.info("stats")["total_reads_processed"]
        queue.send([queued(priority=number % 4) for number in range(300)])
        after = client.info("stats")["total_reads_processed"]
    assert queue.depth("task_execution") == 301
    # a server reads 16 kB at a time
    assert after - before < 150, "a round trip for each message"
    app.close()
