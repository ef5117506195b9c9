"""Live output and cancellations are received after errors of any kind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis
from redis.asyncio.client import PubSub
from redis.client import Pipeline
from redis.client import PubSub as BlockingPubSub
from structlog.testing import capture_logs

from celeriac.adapters.redis_events import CancelListener, RedisLiveEvents, cancel_channel, channel
from celeriac.adapters.redis_watch import Change, Watcher
from celeriac.kit.json_types import dumps
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

DELTA = {"text": "alive"}


class Failing:
    """Raises unexpected errors a few times before it works."""

    def __init__(self, original: Callable[..., Any], times: int = 3) -> None:
        self._original = original
        self.left = times

    def patch(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        def call(*args: Any, **options: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise LookupError("never seen before")
            return self._original(*args, **options)

        patch.setattr(owner, name, call)


def nothing_new(_: Sequence[UUID]) -> Mapping[UUID, int]:
    return {}


async def _heard(changes: AsyncIterator[Change], url: str, execution_id: UUID) -> None:
    """Publish until it is received: without a subscriber a message is lost."""

    async def publish() -> None:
        with Redis.from_url(url) as client:
            while True:
                client.publish(channel(execution_id), dumps({"delta": DELTA}))
                await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish())
    try:
        async with asyncio.timeout(30):
            async for change in changes:
                if change.delta == DELTA:
                    return
    finally:
        publishing.cancel()


@pytest.mark.parametrize("name", ["get_message", "subscribe"])
async def test_a_watcher_receives_again_after_unexpected_errors(
    valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failing = Failing(getattr(PubSub, name))
    failing.patch(monkeypatch, PubSub, name)
    execution_id = uuid4()
    watcher = Watcher(valkey_server.url(), nothing_new)
    with capture_logs() as logs:
        async with watcher.changes(execution_id, position=int, idle_seconds=60) as changes:
            await _heard(changes, valkey_server.url(), execution_id)
    assert failing.left == 0, "it has met the errors"
    told = [line for line in logs if line["event"] == "watcher.failed"]
    assert len(told) == 3
    assert all(line["exc_info"] for line in told)


async def test_a_watcher_looks_again_after_errors_of_a_reader(valkey_server: ValkeyServer) -> None:
    """What a reader says of itself is code of others, too."""
    execution_id, asked = uuid4(), 0

    def position() -> int:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise LookupError("never seen before")
        return 1

    watcher = Watcher(valkey_server.url(), lambda ids: dict.fromkeys(ids, 2))
    with capture_logs() as logs:
        async with watcher.changes(execution_id, position=position, idle_seconds=60):
            await asyncio.to_thread(wait_until, lambda: asked > 2, "it has looked again")
    assert len([line for line in logs if line["event"] == "watcher.failed"]) == 2


def test_publications_continue_after_unexpected_errors(
    valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(Pipeline.execute, times=2)
    failing.patch(monkeypatch, Pipeline, "execute")
    execution_id = uuid4()
    live = RedisLiveEvents(valkey_server.url())
    with (
        capture_logs() as logs,
        Redis.from_url(valkey_server.url()) as client,
        client.pubsub(ignore_subscribe_messages=True) as subscription,
    ):
        subscription.subscribe(channel(execution_id))

        def heard() -> bool:
            live.changed([execution_id])
            return subscription.get_message(timeout=0.05) is not None

        wait_until(heard, "a publication arrives")
        live.close()
    assert failing.left == 0
    assert len([line for line in logs if line["event"] == "live_events.failed"]) == 2


def test_a_publisher_whose_thread_could_not_be_started_starts_it_later(
    valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = RedisLiveEvents(valkey_server.url())
    execution_id = uuid4()

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with Redis.from_url(valkey_server.url()) as client, client.pubsub() as subscription:
        subscription.subscribe(channel(execution_id))
        wait_until(lambda: subscription.get_message(timeout=0.05), "it is subscribed")
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            live.changed([execution_id])  # and its caller continues
        live.changed([execution_id])
        wait_until(lambda: subscription.get_message(timeout=0.05), "it arrives")
    live.close()


@pytest.mark.parametrize("where", ["reading", "acting"])
def test_cancellations_are_received_after_unexpected_errors(
    valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    heard: list[UUID] = []
    failing = Failing(BlockingPubSub.get_message if where == "reading" else heard.extend, times=2)
    if where == "reading":
        failing.patch(monkeypatch, BlockingPubSub, "get_message")

    def act(ids: list[UUID]) -> None:
        if where == "acting" and failing.left > 0:
            failing.left -= 1
            raise LookupError("never seen before")
        heard.extend(ids)

    listener, wanted = CancelListener(valkey_server.url(), act), uuid4()
    listener.start()
    with Redis.from_url(valkey_server.url()) as client:

        def acted() -> bool:
            client.publish(cancel_channel(), dumps([str(wanted)]))
            return bool(heard)

        wait_until(acted, "a cancellation is acted on")
    listener.close()
    assert failing.left == 0
