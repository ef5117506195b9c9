"""The event loop of a worker requests messages as soon as there is room for one."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Message
from kombu.asynchronous import Hub

from celeriac.adapters.redis_transport import use_for_redis
from tests.integration.adapters.conftest import celery_app
from tests.support.servers import ValkeyServer

QUEUE = "one-at-a-time"


@pytest.fixture
def app(valkey_server: ValkeyServer) -> Iterator[Celery]:
    use_for_redis()
    valkey_server.flush()
    app = celery_app(valkey_server.url(1))
    yield app
    app.close()


def test_a_message_is_requested_when_another_thread_acknowledges_the_last(app: Celery) -> None:
    received: SimpleQueue[Message] = SimpleQueue()
    for number in range(3):
        app.send_task("any", args=[number], queue=QUEUE)
    with app.connection_for_read() as connection, Running(connection, received):
        for number in range(3):
            message = received.get(timeout=20)
            assert message.payload[0] == [number]
            assert received.empty()
            message.ack()


class _WithoutTimers(Hub):
    """An event loop that only a socket or another thread wakes."""

    def fire_timers(self, *_: Any, **__: Any) -> float:
        return 3_600.0


class Running:
    """Consumes one message at a time on an event loop of its own."""

    def __init__(self, connection: Connection, received: SimpleQueue[Message]) -> None:
        self._hub: Any = _WithoutTimers()  # type: ignore[no-untyped-call]
        self._consumer = Consumer(
            connection.default_channel,
            [connection.SimpleQueue(QUEUE).queue],
            on_message=received.put,
            accept=["json"],
        )
        self._consumer.qos(prefetch_count=1)
        connection.register_with_event_loop(self._hub)
        self._thread = threading.Thread(target=self._hub.run_forever)

    def __enter__(self) -> None:
        self._consumer.consume()
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._hub.stop()
        self._thread.join(20)
        self._hub.close()
