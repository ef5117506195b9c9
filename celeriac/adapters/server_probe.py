"""Asks Redis and the broker for the situation report."""

from collections.abc import Mapping

from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue
from celeriac.adapters.redis_server import RedisPing


class ServerProbe:
    """Asks Redis and the broker, for reports. Safe to share between threads."""

    def __init__(self, redis_url: str, queue: CeleryTaskQueue, *, seconds: float) -> None:
        """Redis is waited for at most `seconds`."""
        self._ping = RedisPing(redis_url, seconds=seconds)
        self._queue = queue

    def ping(self) -> None:
        """Raise UnavailableError if Redis does not answer in time."""
        self._ping()

    def messages(self) -> Mapping[str, int]:
        """Return the messages in Celeriac's queues; raises BrokerUnavailableError."""
        return self._queue.depths(QUEUES)

    def close(self) -> None:
        """Close the connections."""
        self._ping.close()
