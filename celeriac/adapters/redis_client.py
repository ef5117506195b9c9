"""Clients of the application's Redis, at an address or behind Sentinel."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from celeriac.kit.redis_urls import SentinelUrl

KEY_PREFIX = "celeriac:"
"""The beginning of all keys and channels, unless another one is configured."""


_SENTINEL_SECONDS = 1.0
"""How long one Sentinel may take before the next one is asked."""


def connect(url: str, **options: Any) -> Redis:
    """Return a client of the server at `url`; `options` are those of redis-py.

    Behind Sentinel each new connection asks for the primary. Raises ValueError for a malformed URL.
    """
    found = SentinelUrl.read(url)
    if found is None:
        return Redis.from_url(url, **options)
    manager = Sentinel(found.sentinels, sentinel_kwargs=sentinel_options(found))
    client: Redis = manager.master_for(found.master, **_server_options(found, options))
    return client


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[AsyncRedis]:
    """Yield the client of `connect` for coroutines, and close it without raising."""
    found = SentinelUrl.read(url)
    sentinels: Sequence[AsyncRedis] = ()
    if found is None:
        client = AsyncRedis.from_url(url, **options)
    else:
        asking = sentinel_options(found) | {"retry": AsyncRetry(NoBackoff(), 0)}
        manager = AsyncSentinel(found.sentinels, sentinel_kwargs=asking)
        client = manager.master_for(found.master, **_server_options(found, options))
        sentinels = manager.sentinels
    try:
        yield client
    finally:
        for each in (client, *sentinels):
            with suppress(Exception):
                await each.aclose()


def sentinel_options(found: SentinelUrl) -> dict[str, Any]:
    """Return the options of connections to Sentinel.

    Nothing is retried: redis-py would wait for seconds for a Sentinel that is away, and kombu asks
    anew for each of its channels.
    """
    return {
        "socket_timeout": _SENTINEL_SECONDS,
        "socket_connect_timeout": _SENTINEL_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **found.sentinel_login,
    }


def _server_options(found: SentinelUrl, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, **found.login, "db": found.database}
