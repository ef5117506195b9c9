"""A bounded sample of the keys of a Redis database: what never expires, and what nobody reads."""

import re

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from celeriac.adapters.redis_client import connect
from celeriac.domain.doctor import LastingKeys
from celeriac.domain.errors import ConfigurationError, UnavailableError
from celeriac.kit.outbound import without_password

_SECONDS = 2.0
_SAMPLE = 2_000
_ROUNDS = 20
_LONGEST_NAME = 80

# Lists that Celery's tools make for themselves: nothing else would end them.
_UNREAD = re.compile(r"(.*:)?(celeryev\b.*|.*\.?reply\.celery\.pidbox)")
_BROKERS = re.compile(r"(.*:)?(_kombu\.binding\..*|unacked(_index|_mutex)?)")


def sample(url: str, *, prefix: str) -> LastingKeys:
    """Return what a sample of up to 2,000 keys of the database at `url` shows.

    Keys that begin with `prefix` are ours, and so is every list: it is taken for a queue, and a
    task may name any. Raises UnavailableError if the server doesn't answer within
    seconds, and ConfigurationError if `url` is no address of a Redis server.
    """
    try:
        client = connect(
            url,
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{without_password(url)!r} is not a Redis address; write it as redis://host:6379/0."
        ) from error
    try:
        return _sample(client, without_password(url), prefix)
    except (RedisError, OSError) as error:
        raise UnavailableError(
            f"Redis at {without_password(url)} doesn't answer: {error}"
        ) from error
    finally:
        client.close()


def _sample(client: Redis, address: str, prefix: str) -> LastingKeys:
    names = _names(client)
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.pttl(name)
            pipeline.type(name)
            pipeline.llen(name)
        answers = pipeline.execute(raise_on_error=False) if names else []
    unknown, waiting = [], 0
    for number, name in enumerate(names):
        expiry, kind, length = answers[3 * number : 3 * number + 3]
        text = name.decode("utf-8", "replace")
        if _UNREAD.fullmatch(text):
            waiting += length if isinstance(length, int) else 0
        elif expiry == -1 and not _is_ours(text, kind, prefix):
            unknown.append(text[:_LONGEST_NAME])
    return LastingKeys(address, int(client.dbsize()), len(names), unknown, waiting)


def _names(client: Redis) -> list[bytes]:
    """Return up to _SAMPLE names, in as many steps as are allowed at most."""
    found: dict[bytes, None] = {}
    cursor = 0
    for _ in range(_ROUNDS):
        cursor, page = client.scan(cursor, count=_SAMPLE // _ROUNDS)
        found.update((name, None) for name in page if isinstance(name, bytes))
        if cursor == 0 or len(found) >= _SAMPLE:
            break
    return list(found)[:_SAMPLE]


def _is_ours(name: str, kind: object, prefix: str) -> bool:
    return name.startswith(prefix) or kind == b"list" or _BROKERS.fullmatch(name) is not None
