"""Receives live events for streams: wakes readers, and passes on live output.

All readers of a process share one connection to Redis and one query per second.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from uuid import UUID

import structlog
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from celeriac.adapters.redis_client import KEY_PREFIX, connected
from celeriac.adapters.redis_events import channel
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.backoff import Backoff
from celeriac.kit.json_types import JsonObject, loads

logger = structlog.get_logger(__name__)

_QUERY_SECONDS = 1.0
"""How often the database is queried for changed executions, with or without notifications."""

_PAUSES = (0.1, 10.0)
"""The first and the longest pause before a retry, in seconds; each pause is twice the last."""

_KEPT = 1_000
"""Pieces of live output that are kept for a slow reader."""

_CONNECTION_SECONDS = 2.0
_POLL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an execution: `delta` holds live output; if it is None, read the database.

    With `idle` nothing has changed for a while.
    """

    delta: JsonObject | None = None
    idle: bool = False


_CHANGED = Change()
_IDLE = Change(idle=True)

Positions = Callable[[Sequence[UUID]], Mapping[UUID, int]]
"""Returns the number of the latest event by execution; raises DatabaseUnavailableError."""


class Watcher:
    """Watches executions. Without Redis, queries of the database wake the readers."""

    def __init__(self, url: str, positions: Positions, *, prefix: str = KEY_PREFIX) -> None:
        self._url = url
        self._positions = positions
        self._prefix = prefix
        self._shared: dict[int, _Shared] = {}

    @asynccontextmanager
    async def changes(
        self, execution_id: UUID, *, position: Callable[[], int], idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[Change]]:
        """Yield an endless iterator of changes; the block is subscribed from its start.

        The first change comes at once, so that a reader begins with the database. `position`
        returns the number of the latest event that the reader has; later events in the database
        wake it. After `idle_seconds` without a change there is an idle change.
        """
        loop = id(asyncio.get_running_loop())
        shared = self._shared.get(loop)
        if shared is None:
            shared = self._shared[loop] = _Shared(self._url, self._positions, self._prefix)
        reader = _Reader(position, idle_seconds)
        try:
            await shared.add(execution_id, reader)
            yield reader.changes()
        finally:
            if await shared.remove(execution_id, reader):
                if self._shared.get(loop) is shared:
                    del self._shared[loop]
                shared.stop()


class _Reader:
    """The changes that one stream has not read yet."""

    def __init__(self, position: Callable[[], int], idle_seconds: float) -> None:
        self.position = position
        self._idle_seconds = idle_seconds
        self._waiting: deque[Change] = deque([_CHANGED])
        self._woken = asyncio.Event()
        self._woken.set()

    def put(self, change: Change) -> None:
        if len(self._waiting) >= _KEPT:
            self._waiting.clear()  # only live output is lost, which is not guaranteed
            self._waiting.append(_CHANGED)
        if not (change is _CHANGED and self._waiting and self._waiting[-1] is _CHANGED):
            self._waiting.append(change)
        self._woken.set()

    async def changes(self) -> AsyncIterator[Change]:
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self._woken.wait()
            except TimeoutError:
                yield _IDLE
                continue
            while self._waiting:
                yield self._waiting.popleft()
            self._woken.clear()


class _Shared:
    """The shared connection and queries of the readers of one event loop."""

    def __init__(self, url: str, positions: Positions, prefix: str) -> None:
        self._url = url
        self._positions = positions
        self._channel = partial(channel, prefix=prefix)
        self._readers: dict[UUID, set[_Reader]] = {}
        self._subscription: PubSub | None = None
        self._subscribed: set[UUID] = set()
        self._subscribing = asyncio.Lock()
        self._stopped = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="watcher")
        self._tasks = [
            asyncio.create_task(self._repeat(self._listen)),
            asyncio.create_task(self._repeat(self._query)),
        ]

    def stop(self) -> None:
        """Stop without waiting for the end."""
        self._stopped = True  # redis-py may swallow a cancellation while it connects
        for task in self._tasks:
            task.cancel()
        self._executor.shutdown(wait=False)

    async def add(self, execution_id: UUID, reader: _Reader) -> None:
        self._readers.setdefault(execution_id, set()).add(reader)
        await self._subscribe(execution_id)

    async def remove(self, execution_id: UUID, reader: _Reader) -> bool:
        """Return whether no reader is left."""
        readers = self._readers.get(execution_id, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(execution_id, None)
            if self._readers:
                await self._subscribe(execution_id)
        return not self._readers

    async def _subscribe(self, execution_id: UUID) -> None:
        """Subscribe to an execution's channel if it has readers, otherwise unsubscribe."""
        async with self._subscribing:
            wanted = execution_id in self._readers
            if self._subscription is None or wanted == (execution_id in self._subscribed):
                return
            try:
                if wanted:
                    self._subscribed.add(execution_id)
                    await self._subscription.subscribe(self._channel(execution_id))
                else:
                    self._subscribed.discard(execution_id)
                    await self._subscription.unsubscribe(self._channel(execution_id))
            except (RedisError, OSError, RuntimeError):
                pass  # `_listen` gets the same error, and subscribes to all again
            except Exception:
                self._subscribed.discard(execution_id)  # the next reader tries again
                logger.exception("watcher.failed")

    async def _repeat(self, work: Callable[[Backoff], Awaitable[None]]) -> None:
        """Run `work`, which has no end, and repeat it after each error of any kind.

        Readers depend on it. `work` calls `backoff.succeeded`.
        """
        backoff = Backoff(*_PAUSES)
        while not self._stopped:
            try:
                await work(backoff)
            except (RedisError, OSError, RuntimeError) as error:
                # RuntimeError: the connection was closed during the read
                if not backoff.failing:
                    logger.warning("watcher.unavailable", error=f"{type(error).__name__}: {error}")
            except DatabaseUnavailableError as error:
                if not backoff.failing:
                    logger.warning("watcher.database_unavailable", error=error.message)
            except Exception:
                logger.exception("watcher.failed")
            await asyncio.sleep(backoff.failed())

    async def _listen(self, backoff: Backoff) -> None:
        connection = connected(
            self._url,
            socket_connect_timeout=_CONNECTION_SECONDS,
            socket_timeout=_CONNECTION_SECONDS,
            health_check_interval=25,
            # a new connection must subscribe again, which is done here
            retry=Retry(NoBackoff(), 0),
        )
        try:
            async with (
                connection as redis,
                redis.pubsub(ignore_subscribe_messages=True) as subscription,
            ):
                async with self._subscribing:
                    self._subscribed = set(self._readers)
                    await subscription.subscribe(*map(self._channel, self._subscribed))
                    self._subscription = subscription
                for reader in chain.from_iterable(self._readers.values()):
                    reader.put(_CHANGED)  # notifications may have been missed
                await self._receive(subscription, backoff)
        finally:
            self._subscription = None

    async def _receive(self, subscription: PubSub, backoff: Backoff) -> None:
        while not self._stopped:
            message = await subscription.get_message(timeout=_POLL_SECONDS)
            if message is not None:
                execution_id = _execution(message["channel"])
                change = _change(message["data"])
                for reader in self._readers.get(execution_id, ()) if execution_id else ():
                    reader.put(change)
            backoff.succeeded()

    async def _query(self, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_QUERY_SECONDS)
            watched = list(self._readers)
            found = await loop.run_in_executor(self._executor, self._positions, watched)
            for execution_id, number in found.items():
                for reader in self._readers.get(execution_id, ()):
                    if reader.position() < number:
                        reader.put(_CHANGED)
            backoff.succeeded()


_ID_LENGTH = len(str(UUID(int=0)))


def _execution(name: bytes) -> UUID | None:
    try:
        return UUID(name.decode()[-_ID_LENGTH:])
    except ValueError:
        return None


def _change(data: bytes) -> Change:
    try:
        delta = loads(data).get("delta")
    except (ValueError, AttributeError):
        return _CHANGED
    return _CHANGED if delta is None else Change(delta)
