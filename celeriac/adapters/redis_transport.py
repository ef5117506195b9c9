"""kombu's Redis transport, without the fault that ends busy workers when Redis goes away.

A channel that is closed reads the answer of the BRPOP that it has under way. In kombu 5.7.0 that
read raises once the server is gone, and leaves the channel half closed, with its unacknowledged
messages. Closing it again then fails with an AttributeError, which Celery takes for unrecoverable:
the worker ends, and all that runs in it is lost. tests/chaos/test_valkey.py shows it.
"""

from contextlib import suppress
from queue import Empty

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):
    """A channel that closes whether or not its server is there."""

    def close(self) -> None:
        """Close; what is not acknowledged comes back after the visibility timeout."""
        self._closing = True
        if self._in_poll:
            with suppress(Empty, *self.connection_errors):
                self._brpop_read()  # type: ignore[no-untyped-call]
        super().close()  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """The Redis transport with these channels."""

    Channel = Channel


def use_for_redis() -> None:
    """Have kombu take this transport for `redis://` and `rediss://`; harmless to repeat."""
    path = f"{Transport.__module__}:{Transport.__qualname__}"
    TRANSPORT_ALIASES.update(redis=path, rediss=path)
