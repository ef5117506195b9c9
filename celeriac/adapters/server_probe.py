"""Asks Redis and the broker for the situation report."""

from collections.abc import Mapping, Sequence

from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue
from celeriac.adapters.redis_server import RedisPing
from celeriac.domain.plain_tasks import PlainWaiting


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

    def waiting_tasks(self, queues: Sequence[str]) -> PlainWaiting:
        """Return the plain tasks that wait in Celeriac's and these queues.

        Raises BrokerUnavailableError, and UnavailableError for a broker that does not show them.
        """
        return self._queue.waiting_tasks(list(dict.fromkeys([*QUEUES, *queues])))

    def close(self) -> None:
        """Close the connections."""
        self._ping.close()
