"""Rate limits of providers, counted in Redis for all workers together.

A rate has a counter for requests and one for tokens. A counter divides its window into 60 slots,
one second each for a window of a minute. A slot counts until all of it is older than the window, so
no window of that length, wherever it begins, exceeds the limit; capacity returns up to one slot
late. A counter is a hash of at most 61 slots. All times are those of the Redis server.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from redis.commands.core import Script
from redis.exceptions import RedisError

from celeriac.adapters.redis_client import KEY_PREFIX, connect
from celeriac.domain.usage import RateDenied, RateGrant, RateRequest

logger = structlog.get_logger(__name__)

_TIMEOUT = 0.5
_PAUSE_SECONDS = 5.0
"""How long Redis is not used after it did not answer."""

_NOT_COUNTED = -1
"""The slot of a call that was made without Redis."""

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[1])
local width = window / 60
local slot = math.floor(now / width)
"""

_TAKE = (
    _CLOCK
    + """
-- KEYS: the ban, then for each counter its slots and the end of its queue
-- ARGV: window in ms, '1' to enqueue, then for each counter its limit and the amount to add
local function wait_for(key, limit, amount)
    local counts, slots, total = {}, {}, 0
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
        local at, count = tonumber(fields[i]), tonumber(fields[i + 1])
        if at < slot - 60 then
            redis.call('HDEL', key, fields[i])
        else
            table.insert(slots, at)
            counts[at] = count
            total = total + count
        end
    end
    if total + amount <= limit then return 0 end
    table.sort(slots)
    for _, at in ipairs(slots) do
        total = total - counts[at]
        if total + amount <= limit then return math.max((at + 61) * width - now, 1) end
    end
    return window
end

local wait, binding = redis.call('PTTL', KEYS[1]), 0
for i = 2, #KEYS, 2 do
    local needed = wait_for(KEYS[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
    if needed > wait then wait, binding = needed, i end
end
if wait > 0 then
    if ARGV[2] == '1' and binding > 0 then
        local queue = KEYS[binding + 1]
        local place = math.max(now + wait, tonumber(redis.call('GET', queue) or '0'))
        local share = tonumber(ARGV[binding + 2]) / tonumber(ARGV[binding + 1])
        local behind = math.ceil(place + window * share)
        redis.call('SET', queue, string.format('%.0f', behind), 'PX', behind - math.floor(now))
        wait = place - now
    end
    return {math.ceil(wait), slot}
end
for i = 2, #KEYS, 2 do
    redis.call('HINCRBY', KEYS[i], string.format('%.0f', slot), ARGV[i + 2])
    redis.call('PEXPIRE', KEYS[i], 2 * window)
end
return {0, slot}
"""
)

_ADD = (
    _CLOCK
    + """
-- KEYS: counters; ARGV: window in ms, the slot, then for each counter the amount to add
if tonumber(ARGV[2]) < slot - 60 then return end
for i, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then redis.call('HINCRBY', key, ARGV[2], ARGV[i + 2]) end
end
"""
)

_BAN = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
"""


class RedisRateLimiter:
    """A `RateLimiter`. Create it after a fork. Safe to share between threads."""

    def __init__(self, url: str, *, window_seconds: float = 60.0, prefix: str = KEY_PREFIX) -> None:
        self._prefix = prefix
        self._redis = connect(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, health_check_interval=25
        )
        self._window = round(window_seconds * 1000)
        self._take = self._redis.register_script(_TAKE)
        self._add = self._redis.register_script(_ADD)
        self._ban = self._redis.register_script(_BAN)
        self._retry_at = 0.0
        self._failing = False

    def take(
        self, requests: Sequence[RateRequest], *, name: str, enqueue: bool
    ) -> RateGrant | RateDenied:
        """Count a call, or say how long it must wait; see `RateLimiter.take`."""
        keys = [self._key("ban", name)]
        values: list[int] = [self._window, enqueue]
        for counter, limit, amount in _counters(requests):
            keys += [self._key("rate", counter), self._key("queue", counter)]
            values += [limit, amount]
        answer = self._run(self._take, keys, values)
        if answer is None:
            return RateGrant(tuple(requests), _NOT_COUNTED)
        wait, slot = answer
        return RateDenied(wait / 1000) if wait > 0 else RateGrant(tuple(requests), slot)

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Replace the estimated tokens of a call with those it used."""
        self._change(taken, requests=0, tokens=[tokens - each.tokens for each in taken.requests])

    def give_back(self, taken: RateGrant) -> None:
        """Uncount a call that was not made."""
        self._change(taken, requests=-1, tokens=[-each.tokens for each in taken.requests])

    def ban(self, name: str, seconds: float) -> None:
        """Refuse all calls of `name` for `seconds`."""
        self._run(self._ban, [self._key("ban", name)], [max(round(seconds * 1000), 1)])

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _change(self, taken: RateGrant, *, requests: int, tokens: Sequence[int]) -> None:
        if taken.slot == _NOT_COUNTED:
            return
        changes: list[tuple[str, int]] = []
        for each, more in zip(taken.requests, tokens, strict=True):
            changes += [(f"{each.name}:requests", requests), (f"{each.name}:tokens", more)]
        changes = [(name, amount) for name, amount in changes if amount]
        if changes:
            keys = [self._key("rate", name) for name, _ in changes]
            values = [self._window, taken.slot, *(amount for _, amount in changes)]
            self._run(self._add, keys, values)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _run(self, script: Script, keys: Sequence[str], values: Sequence[int]) -> Any:
        """Run a script; None if Redis does not answer, which pauses its use for seconds."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            answer = script(keys=list(keys), args=[int(value) for value in values])
        except (RedisError, OSError) as error:
            self._retry_at = time.monotonic() + _PAUSE_SECONDS
            if not self._failing:
                logger.warning("rate_limits.unavailable", error=str(error))
            self._failing = True
            return None
        if self._failing:
            self._failing = False
            logger.info("rate_limits.back")
        return answer


def _counters(requests: Sequence[RateRequest]) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the limit and the amount to add of each counter."""
    for each in requests:
        if each.rate.requests is not None:
            yield f"{each.name}:requests", each.rate.requests, 1
        if each.rate.tokens is not None:
            yield f"{each.name}:tokens", each.rate.tokens, each.tokens
