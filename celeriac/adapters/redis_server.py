"""Facts about a Redis server, and its health check."""

import time

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from celeriac.adapters.redis_client import connect
from celeriac.domain.doctor import RedisServer
from celeriac.domain.errors import ConfigurationError, UnavailableError
from celeriac.domain.metrics import RedisFigures
from celeriac.kit.outbound import without_password

_SECONDS = 2.0


def describe(url: str) -> RedisServer:
    """Return facts about the server at `url`.

    Raises UnavailableError if it doesn't answer within seconds or refuses the login, and
    ConfigurationError if `url` is not the address of a Redis server.
    """
    try:
        client = connect(
            url,
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{without_password(url)!r} is not a Redis address; write it as redis://host:6379/0."
        ) from error
    try:
        info = client.info()
    except (RedisError, OSError) as error:
        raise UnavailableError(
            f"Redis at {without_password(url)} doesn't answer: {error}"
        ) from error
    finally:
        client.close()
    valkey = info.get("valkey_version")
    return RedisServer(
        product="Valkey" if valkey else "Redis",
        version=str(valkey or info.get("redis_version", "unknown")),
        used_memory=int(info.get("used_memory", 0)),
        max_memory=int(info.get("maxmemory", 0)),
        eviction=str(info.get("maxmemory_policy", "unknown")),
        append_only=bool(info.get("aof_enabled", 0)),
    )


_PROBE_SECONDS = 1.0


class RedisPing:
    """The health check of a Redis server. Safe to share between threads."""

    def __init__(self, url: str, *, seconds: float = _PROBE_SECONDS) -> None:
        """`seconds` is how long it may take to connect, and to answer."""
        self._address = without_password(url)
        self._redis = connect(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry_on_timeout=False,
            retry=Retry(NoBackoff(), 0),
        )

    def __call__(self) -> None:
        """Return if it answers in time; otherwise raise UnavailableError."""
        try:
            self._redis.ping()
        except (RedisError, OSError) as error:
            raise UnavailableError(f"Redis at {self._address} doesn't answer.") from error

    def figures(self) -> RedisFigures:
        """Return memory, connections and how long a command takes.

        Raises UnavailableError if the server doesn't answer within a second.
        """
        begin = time.perf_counter()
        try:
            self._redis.ping()
            seconds = time.perf_counter() - begin
            found = self._redis.info("memory")
            clients = self._redis.info("clients")
        except (RedisError, OSError) as error:
            raise UnavailableError(f"Redis at {self._address} doesn't answer.") from error
        return RedisFigures(
            memory_bytes=int(found["used_memory"]),
            memory_limit_bytes=int(found.get("maxmemory", 0)),
            connections=int(clients["connected_clients"]),
            seconds=seconds,
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
