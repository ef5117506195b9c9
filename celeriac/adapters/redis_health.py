"""Whether Redis answers."""

from redis import Redis
from redis.exceptions import RedisError

from celeriac.domain.errors import UnavailableError
from celeriac.kit.urls import without_password

_SECONDS = 1.0


class RedisPing:
    """Asks the Redis at a URL for a sign of life. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet."""
        self._address = without_password(url)
        self._redis = Redis.from_url(
            url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry_on_timeout=False
        )

    def __call__(self) -> None:
        """Return if it answers within a second; raises UnavailableError."""
        try:
            self._redis.ping()
        except (RedisError, OSError) as error:
            raise UnavailableError(f"Redis at {self._address} doesn't answer.") from error

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
