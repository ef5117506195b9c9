"""The watching side of live events, for streams: wakes a reader up, hands over deltas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from celeriac.adapters.redis_events import channel
from celeriac.kit.jsontypes import JsonObject, loads

logger = structlog.get_logger(__name__)

_IDLE_SECONDS = 1.0
"""At least so often a watcher looks into the database, told or not."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something new: `delta` holds live output, or None when the database is to be read."""

    delta: JsonObject | None = None


class Watcher:
    """Watches executions over Redis; with Redis away it wakes its readers once a second."""

    def __init__(self, url: str) -> None:
        """Use the Redis at `url`; connections are opened by the watching."""
        self._url = url

    @asynccontextmanager
    async def changes(self, execution_id: UUID) -> AsyncIterator[AsyncIterator[Change]]:
        """Yield an endless iterator of changes; subscribed before the block is entered.

        The first change comes at once, so that a reader always begins with the database.
        """
        redis = Redis.from_url(self._url, socket_connect_timeout=1, socket_timeout=5)
        subscription = redis.pubsub(ignore_subscribe_messages=True)
        try:
            await self._subscribe(subscription, execution_id)
            yield self._iterate(subscription, execution_id)
        finally:
            with suppress(RedisError, OSError):
                await subscription.aclose()
                await redis.aclose()

    async def _subscribe(self, subscription: PubSub, execution_id: UUID) -> bool:
        try:
            await subscription.subscribe(channel(execution_id))
        except (RedisError, OSError) as error:
            logger.warning("watcher.unavailable", error=str(error))
            return False
        return True

    async def _iterate(self, subscription: PubSub, execution_id: UUID) -> AsyncIterator[Change]:
        yield Change()
        while True:
            try:
                message = await subscription.get_message(timeout=_IDLE_SECONDS)
            except (RedisError, OSError, RuntimeError):
                # RuntimeError: not subscribed, the connection is not set
                await asyncio.sleep(_IDLE_SECONDS)
                await self._subscribe(subscription, execution_id)
                message = None
            yield Change() if message is None else _change(message["data"])


def _change(data: bytes) -> Change:
    try:
        return Change(loads(data).get("delta"))
    except (ValueError, AttributeError):
        return Change()
