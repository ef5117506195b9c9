"""Live events over Redis publish/subscribe: change notifications and cancellations.

Publishing never blocks and never raises: messages go into a bounded queue, and one thread sends
them in pipelines. A lost message delays a watcher by a second and a cancellation by a heartbeat;
the database has everything.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from celeriac.adapters.redis_client import KEY_PREFIX, connect
from celeriac.kit.backoff import Backoff
from celeriac.kit.ids import parse_uuid
from celeriac.kit.json_types import JsonObject, dumps, loads

logger = structlog.get_logger(__name__)

_CAPACITY = 10_000
_BATCH = 500
_PAUSE = 0.02
"""Seconds between pipelines. The first message is sent at once; under load many share a pipeline,
which takes less than half of the CPU time."""

_TIMEOUT = 2.0
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 15.0
_LONGEST_OUTAGE = 2.0
"""The longest pause after an error. Messages are dropped meanwhile, so it is short."""

_MAX_MESSAGES = 1000
"""Cancellation messages that are read before they are handled."""


def channel(execution_id: UUID, prefix: str = KEY_PREFIX) -> str:
    """Return the channel of an execution."""
    return f"{prefix}execution:{execution_id}"


def cancel_channel(prefix: str = KEY_PREFIX) -> str:
    """Return the channel of cancellations."""
    return f"{prefix}cancel"


class RedisLiveEvents:
    """Publishes live events. Create it after a fork. Safe to share between threads."""

    def __init__(self, url: str, *, prefix: str = KEY_PREFIX) -> None:
        self._prefix = prefix
        self._redis = connect(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, health_check_interval=25
        )
        self._outbox: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(_FIRST_RETRY, _LONGEST_OUTAGE)

    def changed(self, execution_ids: Sequence[UUID]) -> None:
        """Notify watchers of new events."""
        for execution_id in execution_ids:
            self._put(channel(execution_id, self._prefix), "{}")

    def delta(self, execution_id: UUID, data: JsonObject) -> None:
        """Send a piece of streaming output to watchers."""
        self._put(channel(execution_id, self._prefix), dumps({"delta": data}))

    def cancel(self, execution_ids: Sequence[UUID]) -> None:
        """Notify all workers of cancelled executions."""
        if execution_ids:
            self._put(cancel_channel(self._prefix), dumps([str(key) for key in execution_ids]))

    def close(self, seconds: float = 2.0) -> None:
        """Send queued messages for at most `seconds`, and end the thread."""
        with self._start:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._closing.set()
            self._outbox.put(None)
            thread.join(seconds)
        self._redis.close()

    def _put(self, name: str, text: str) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._ensure_thread()
        if self._outbox.qsize() < _CAPACITY:
            self._outbox.put((name, text))

    def _ensure_thread(self) -> None:
        with self._start:
            if self._thread is not None and self._thread.is_alive():
                return
            self._closing.clear()
            thread = threading.Thread(target=self._run, name="live-events", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                # the next message tries again
                logger.warning("live_events.unavailable", error=str(error), dropped=0)
            else:
                self._thread = thread

    def _run(self) -> None:
        while (first := self._outbox.get()) is not None:
            batch = [first]
            while len(batch) < _BATCH and not self._outbox.empty():
                item = self._outbox.get()
                if item is None:
                    self._publish(batch)
                    return
                batch.append(item)
            self._publish(batch)
            self._closing.wait(_PAUSE)

    def _publish(self, batch: list[tuple[str, str]]) -> None:
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for name, text in batch:
                    pipeline.publish(name, text)
                pipeline.execute()
        except Exception as error:  # the thread must continue for later messages
            if not isinstance(error, RedisError | OSError):
                logger.exception("live_events.failed", dropped=len(batch))
            elif not self._backoff.failing:
                logger.warning("live_events.unavailable", error=str(error), dropped=len(batch))
            self._closing.wait(self._backoff.failed())
        else:
            if self._backoff.succeeded():
                logger.info("live_events.back")


class CancelListener:
    """Listens for cancellations and passes the executions' ids to a callback.

    Anyone with access to Redis can publish there, so the callback must check the executions' rows.
    """

    def __init__(
        self, url: str, on_cancel: Callable[[list[UUID]], None], *, prefix: str = KEY_PREFIX
    ) -> None:
        self._channel = cancel_channel(prefix)
        self._redis = connect(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, health_check_interval=25
        )
        self._on_cancel = on_cancel
        self._ended = threading.Event()
        self._backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        self._thread = threading.Thread(target=self._run, name="cancel-listener", daemon=True)

    def start(self) -> None:
        """Start listening; reconnects without a limit."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._thread.join(_TIMEOUT)
        self._redis.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except Exception as error:
                if not isinstance(error, RedisError | OSError):
                    logger.exception("worker.thread_failed", thread="cancel-listener")
                elif not self._backoff.failing:
                    logger.warning("cancel_listener.unavailable", error=str(error))
                self._ended.wait(self._backoff.failed())

    def _listen(self) -> None:
        with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(self._channel)
            while not self._ended.is_set():
                message = subscription.get_message(timeout=0.5)
                found: list[bytes] = []
                while message is not None and len(found) < _MAX_MESSAGES:
                    found.append(message["data"])
                    message = subscription.get_message(timeout=0)
                ids = dict.fromkeys(key for data in found for key in _ids(data))
                if ids:
                    self._on_cancel(list(ids))
                if self._backoff.succeeded():
                    logger.info("cancel_listener.back")
                if ids:
                    self._ended.wait(_PAUSE)


def _ids(data: bytes) -> list[UUID]:
    try:
        names = loads(data)
    except ValueError:
        return []
    if not isinstance(names, list):
        return []
    ids = (parse_uuid(name) for name in names if isinstance(name, str))
    return [key for key in ids if key is not None]
