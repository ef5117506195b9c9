"""kombu's Redis transport, with fixes of two faults of kombu 5.7.0 that stop workers.

Closing a channel reads the answer of its running BRPOP. Without a server that read raises, and
leaves the channel half closed, with its unacknowledged messages. Closing it again then raises
AttributeError, which Celery treats as unrecoverable: the worker exits and loses its executions.
tests/chaos/test_valkey.py shows it.

An item of a queue that is not a message raises through kombu's event loop, which ends the consumer.
In kombu's hash of unacknowledged messages it stops the redelivery of all others. Here such items
are dropped, logged and counted. tests/chaos/test_broken_messages.py shows it.

Room for a message that another thread makes was noticed up to a second later. Here it is noticed at
once: tests/integration/adapters/test_redis_transport.py.
"""

import reprlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from celeriac.adapters.compression import COMPRESSED
from celeriac.adapters.dropped import dropped_messages
from celeriac.kit.json_types import has_utf8

BROKER_ERRORS = tuple(
    error
    for error in (*redis.Transport.connection_errors, *redis.Transport.channel_errors)
    if error is not KeyError
)
"""Errors of the server. kombu includes KeyError, which bad messages raise too."""


class QoS(redis.QoS):
    """Unacknowledged messages; an unreadable one doesn't block the others."""

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge; if there was no room for a message, request one now.

        Slots that are threads acknowledge while the event loop waits for something to read.
        """
        was_full = not self.can_consume()  # type: ignore[no-untyped-call]
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        if was_full:
            self.channel.connection.request_soon()

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Return a message to its queue; drop it if that fails."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)  # type: ignore[no-untyped-call]
        except BROKER_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - anything may be stored there
            reason = f"it can't be returned to its queue: {_name(error)}"
            dropped_messages.record(reason, b"")
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """A channel that tolerates a lost server and items that are not messages."""

    QoS = QoS

    def close(self) -> None:
        """Close; unacknowledged messages are redelivered after the visibility timeout."""
        self._closing = True
        if self._in_poll:
            with suppress(Empty, *self.connection_errors):
                self._brpop_read()
        super().close()  # type: ignore[no-untyped-call]

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,  # noqa: FBT001 - kombu's
        callback: Callable[[Any], Any],
        consumer_tag: str,
        **more: Any,
    ) -> Any:
        """Consume from `queue`; items that are not messages don't reach `callback`."""
        result = super().basic_consume(  # type: ignore[no-untyped-call]
            queue, no_ack=no_ack, callback=callback, consumer_tag=consumer_tag, **more
        )

        def receive(raw: Any) -> Any:
            message = self._read(raw, queue)
            if message is None:
                return None
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return callback(message)

        self.connection._callbacks[queue] = receive  # noqa: SLF001 - as kombu's own method does
        return result

    def _read(self, raw: Any, queue: str) -> Any:
        """Return the message in `raw`, or None if it was dropped."""
        fault = _fault(raw)
        if fault is None:
            try:
                return self.Message(raw, channel=self)  # type: ignore[no-untyped-call]
            except Exception as error:  # noqa: BLE001 - decoders may raise anything
                fault = f"its body can't be decoded: {_name(error)}"
        dropped_messages.record(fault, reprlib.repr(raw), queue=queue)
        return None

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer of a BRPOP and deliver it, like kombu's method; checks the item.

        Raises Empty if there was nothing to deliver.
        """
        try:
            try:
                found = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                # the next round reconnects
                self.client.connection.disconnect()
                raise
            except ResponseError as error:
                # it is a replica now, or can't write: treat it as unavailable
                self.client.connection.disconnect()
                raise RedisConnectionError(str(error)) from error
            self.connection.answered_at = time.monotonic()
            if not found:
                raise Empty
            destination, item = found
            queue = bytes_to_str(destination).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            try:
                raw = loads(bytes_to_str(item))
            except Exception as error:  # noqa: BLE001 - any bytes may be there
                dropped_messages.record(f"it is not JSON: {_name(error)}", item, queue=queue)
                return True
            self.connection._deliver(raw, queue)  # noqa: SLF001 - as kombu's own method does
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]

    def _receive_one(self, c: Any) -> Any:
        """Read and deliver one broadcast; drop what is not one."""
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call]
        except Empty:
            return None  # kombu has logged it; others may follow
        except BROKER_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - any bytes may be there
            dropped_messages.record(f"it is not a broadcast: {_name(error)}", b"")
            return None

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        """Deliver a broadcast, unless its exchange has no listener any more."""
        queue = self._fanout_to_queue.get(exchange)
        if queue is not None:
            self.connection._deliver(message, queue)  # noqa: SLF001 - as kombu's own method does
        return True


class SentinelChannel(Channel, redis.SentinelChannel):
    """The channel of a primary that Sentinel names."""


class Transport(redis.Transport):
    """The Redis transport with the fixed channels."""

    Channel = Channel
    # a server that became a replica comes back or is replaced: reconnect
    connection_errors = (*redis.Transport.connection_errors, ReadOnlyError)

    answered_at: float | None = None
    """When the server last answered a request for messages, by the monotonic clock."""

    _loop: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the event loop read messages."""
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        self._loop = loop

    def request_soon(self) -> None:
        """Let the event loop request messages now, not when the next timer wakes it."""
        if self._loop is not None:
            self._loop.call_soon(_nothing)

    def _reject_inbound_message(self, raw_message: Any) -> None:
        """Return a message of a queue that is no longer consumed; drop what is not one."""
        fault = _fault(raw_message)
        if fault is None:
            super()._reject_inbound_message(raw_message)  # type: ignore[no-untyped-call]
        else:
            dropped_messages.record(fault, reprlib.repr(raw_message))


class SentinelTransport(Transport):
    """The Redis transport behind Sentinel."""

    Channel = SentinelChannel
    default_port: Any = redis.SentinelTransport.default_port


def use_for_redis() -> None:
    """Make kombu use these transports for Redis; idempotent."""
    path, behind_sentinel = (f"{__name__}:{each.__qualname__}" for each in _TRANSPORTS)
    TRANSPORT_ALIASES.update(redis=path, rediss=path, sentinel=behind_sentinel)


_TRANSPORTS = (Transport, SentinelTransport)


def _fault(raw: Any) -> str | None:
    """Return why `raw` is not a message of this transport, or None."""
    if not isinstance(raw, Mapping):
        return f"it is {_kind(raw)}, not an object"
    properties = raw.get("properties")
    delivery = properties.get("delivery_info") if isinstance(properties, Mapping) else None
    headers = {} if raw.get("headers") is None else raw["headers"]
    objects = {"properties": properties, "delivery_info": delivery, "headers": headers}
    for name, value in objects.items():
        if not isinstance(value, Mapping):
            return f"its {name}: {_kind(value)}, not an object"
    assert isinstance(properties, Mapping)
    assert isinstance(delivery, Mapping)
    if headers.get("compression"):
        return COMPRESSED
    texts = {
        "body": raw.get("body"),
        "delivery_tag": properties.get("delivery_tag"),
        "exchange": delivery.get("exchange"),
        "routing_key": delivery.get("routing_key"),
    }
    optional = (("content-type", raw), ("content-encoding", raw), ("body_encoding", properties))
    texts |= {name: place[name] for name, place in optional if place.get(name) is not None}
    for name, value in texts.items():
        if not isinstance(value, str) or not has_utf8(value):
            return f"its {name}: {_kind(value)}, not a text in UTF-8"
    return None


def _nothing() -> None:
    """Wake the event loop, which requests messages in each round."""


def _kind(value: Any) -> str:
    return "missing or null" if value is None else f"a {type(value).__name__}"


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
