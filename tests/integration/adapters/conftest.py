"""Each port twice: in memory and on Valkey, with one way to look at what came through."""

from collections.abc import Iterator
from typing import Protocol
from uuid import UUID

import pytest
from celery import Celery
from redis import Redis

from celeriac.adapters.celery_queue import CeleryOptions, CeleryTaskQueue, create_app
from celeriac.adapters.redis_events import CancelListener, RedisLiveEvents, cancel_channel, channel
from celeriac.domain.executions.model import Message
from celeriac.embedded.home import reserve_port
from celeriac.kit.json_types import JsonObject, loads
from celeriac.services.ports import LiveEvents, TaskQueue
from tests.support.memory import MemoryLiveEvents, MemoryTaskQueue
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

KINDS = ["memory", "valkey"]


class QueueUnderTest(Protocol):
    """A task queue, and what a worker gets out of it."""

    @property
    def queue(self) -> TaskQueue: ...

    def take(self, name: str) -> Message | None: ...


class _MemoryQueue:
    def __init__(self) -> None:
        self.queue = MemoryTaskQueue()

    def take(self, name: str) -> Message | None:
        envelope = self.queue.take(name)
        return envelope.message if envelope else None


class _CeleryQueue:
    def __init__(self, app: Celery) -> None:
        self.queue = CeleryTaskQueue(app)
        self._app = app

    def take(self, name: str) -> Message | None:
        with self._app.connection_for_read() as connection:
            received = connection.default_channel.basic_get(name, no_ack=True)
        if received is None:
            return None
        (execution_id, attempt), _, _ = loads(received.body)
        return Message(UUID(execution_id), attempt, received.headers["id"])


def celery_app(broker_url: str) -> Celery:
    options = CeleryOptions(
        broker_url=broker_url, result_backend="disabled://", publish_timeout=1.0, extra={}
    )
    return create_app(options)


@pytest.fixture(params=KINDS)
def tasks(request: pytest.FixtureRequest) -> Iterator[QueueUnderTest]:
    if request.param == "memory":
        yield _MemoryQueue()
        return
    server: ValkeyServer = request.getfixturevalue("valkey_server")
    server.flush()
    app = celery_app(server.url(1))
    yield _CeleryQueue(app)
    app.close()


@pytest.fixture(params=KINDS)
def unreachable_queue(request: pytest.FixtureRequest) -> Iterator[TaskQueue]:
    if request.param == "memory":
        queue = MemoryTaskQueue()
        queue.away = True
        yield queue
        return
    app = celery_app(f"redis://127.0.0.1:{reserve_port()}/1")
    yield CeleryTaskQueue(app)
    app.close()


class EventsUnderTest(Protocol):
    """Live events, and what watchers and workers receive."""

    @property
    def live(self) -> LiveEvents: ...

    def watch(self, execution_id: UUID) -> None: ...

    def heard(self) -> list[JsonObject | None]:
        """What was received for the watched execution: deltas, and None for a change."""
        ...

    def cancelled(self) -> list[UUID]: ...


class _MemoryEvents:
    def __init__(self) -> None:
        self.live = MemoryLiveEvents()
        self._cancelled: list[UUID] = []
        self._watched: UUID | None = None
        self.live.listen(self._cancelled.extend)

    def watch(self, execution_id: UUID) -> None:
        self._watched = execution_id

    def heard(self) -> list[JsonObject | None]:
        changes = [None for each in self.live.changes if each == self._watched]
        return [*changes, *(data for each, data in self.live.deltas if each == self._watched)]

    def cancelled(self) -> list[UUID]:
        return self._cancelled


class _RedisEvents:
    def __init__(self, url: str) -> None:
        self.live = RedisLiveEvents(url)
        self._redis = Redis.from_url(url)
        self._subscription = self._redis.pubsub(ignore_subscribe_messages=True)
        self._heard: list[JsonObject | None] = []
        self._cancelled: list[UUID] = []
        self._listener = CancelListener(url, self._cancelled.extend)
        self._listener.start()
        wait_until(lambda: self._listeners(cancel_channel()) == 1, "the worker listens")

    def watch(self, execution_id: UUID) -> None:
        name = channel(execution_id)
        self._subscription.subscribe(name)
        wait_until(lambda: self._listeners(name) == 1, "the watcher is subscribed")

    def heard(self) -> list[JsonObject | None]:
        while (message := self._subscription.get_message(timeout=0.05)) is not None:
            self._heard.append(loads(message["data"]).get("delta"))
        return self._heard

    def cancelled(self) -> list[UUID]:
        return self._cancelled

    def close(self) -> None:
        self.live.close()
        self._listener.close()
        self._subscription.close()
        self._redis.close()

    def _listeners(self, name: str) -> int:
        ((_, count),) = self._redis.pubsub_numsub(name)
        return int(count)


@pytest.fixture(params=KINDS)
def events(request: pytest.FixtureRequest) -> Iterator[EventsUnderTest]:
    if request.param == "memory":
        yield _MemoryEvents()
        return
    server: ValkeyServer = request.getfixturevalue("valkey_server")
    under_test = _RedisEvents(server.url())
    yield under_test
    under_test.close()
