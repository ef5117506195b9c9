"""Rates of providers, held in Redis for all workers together.

A window is counted in sixty pieces, of a second each where it is a minute. A piece counts until
the whole of it is older than the window, so that no window holds more than its rate, wherever it
begins; the price is that room comes back up to one piece late. A rate costs a hash of at most 61
pieces, however many calls it counts. The clock is that of Redis.
"""

import time
from collections.abc import Sequence
from typing import Any

import structlog
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

from celeriac.domain.usage import RateDenied, RateGrant, RateRequest

logger = structlog.get_logger(__name__)

_TIMEOUT = 0.5
_AWAY_SECONDS = 5.0
"""How long nothing is asked of a Redis that didn't answer."""

_UNKNOWN = -1
"""The piece of a call that nobody counted."""

# ARGV: window in ms, tokens to add per rate ... ; one piece is a sixtieth of the window
_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[1])
local piece = window / 60
local slot = math.floor(now / piece)
"""

_TAKE = (
    _CLOCK
    + """
-- KEYS: the ban, then for each rate its counts and its line
-- ARGV: window, '1' to line up, then for each rate its requests, tokens (or -1), and the demand
local function free_in(key, requests, tokens, demand)
    local counts, slots = {}, {}
    local fields = redis.call('HGETALL', key)
    local asked, used = 0, 0
    for i = 1, #fields, 2 do
        local at, kind = string.match(fields[i], '^(%d+):(%a)$')
        at = tonumber(at)
        if at < slot - 60 then
            redis.call('HDEL', key, fields[i])
        else
            if not counts[at] then
                counts[at] = {r = 0, t = 0}
                table.insert(slots, at)
            end
            local count = tonumber(fields[i + 1])
            counts[at][kind] = count
            if kind == 'r' then asked = asked + count else used = used + count end
        end
    end
    local function full()
        return (requests >= 0 and asked + 1 > requests) or (tokens >= 0 and used + demand > tokens)
    end
    if not full() then return 0 end
    table.sort(slots)
    for _, at in ipairs(slots) do
        asked = asked - counts[at].r
        used = used - counts[at].t
        if not full() then return math.max((at + 61) * piece - now, 1) end
    end
    return window
end

local wait, binding = redis.call('PTTL', KEYS[1]), 0
local rates = (#KEYS - 1) / 2
for i = 1, rates do
    local at = 3 * i
    local free = free_in(
        KEYS[2 * i], tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
    if free > wait then wait, binding = free, i end
end
if wait > 0 then
    if ARGV[2] == '1' and binding > 0 then
        local at = 3 * binding
        local requests, tokens = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
        local pause = 0
        if requests > 0 then pause = window / requests end
        if tokens > 0 then pause = math.max(pause, window * tonumber(ARGV[at + 2]) / tokens) end
        local line = KEYS[2 * binding + 1]
        local place = math.max(now + wait, tonumber(redis.call('GET', line) or '0'))
        local behind = math.ceil(place + pause)
        redis.call('SET', line, string.format('%.0f', behind), 'PX',
                   string.format('%.0f', math.max(behind - now, 1)))
        wait = place - now
    end
    return {math.ceil(wait), slot}
end
for i = 1, rates do
    redis.call('HINCRBY', KEYS[2 * i], string.format('%.0f:r', slot), 1)
    redis.call('HINCRBY', KEYS[2 * i], string.format('%.0f:t', slot), ARGV[3 * i + 2])
    redis.call('PEXPIRE', KEYS[2 * i], string.format('%.0f', 2 * window))
end
return {0, slot}
"""
)

_CHANGE = (
    _CLOCK
    + """
-- KEYS: counts; ARGV: window, the slot, requests to add, then tokens to add for each rate
local at = tonumber(ARGV[2])
if at < slot - 60 then return 0 end
for i, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then
        redis.call('HINCRBY', key, ARGV[2] .. ':r', ARGV[3])
        redis.call('HINCRBY', key, ARGV[2] .. ':t', ARGV[3 + i])
    end
end
return 1
"""
)

_BAN = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
return 1
"""


class RedisRateLimiter:
    """A `RateLimiter`. Made after a fork; safe to share between threads."""

    def __init__(self, url: str, *, window_seconds: float = 60.0) -> None:
        """Count in the Redis at `url`; nothing is connected yet."""
        self._redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, health_check_interval=25
        )
        self._window = str(round(window_seconds * 1000))
        self._take = self._redis.register_script(_TAKE)
        self._change = self._redis.register_script(_CHANGE)
        self._ban = self._redis.register_script(_BAN)
        self._away_until = 0.0
        self._away = False

    def take(
        self, demands: Sequence[RateRequest], *, name: str, line: bool
    ) -> RateGrant | RateDenied:
        """Take what a call demands; see `RateLimiter.take`."""
        keys = [_key("ban", name)]
        values = [self._window, "1" if line else "0"]
        for demand in demands:
            keys += [_key("rate", demand.name), _key("line", demand.name)]
            values += [_limit(demand.rate.requests), _limit(demand.rate.tokens), str(demand.tokens)]
        answer = self._run(self._take, keys, values)
        if answer is None:
            return RateGrant(tuple(demands), _UNKNOWN)
        wait, slot = answer
        return RateDenied(wait / 1000) if wait > 0 else RateGrant(tuple(demands), slot)

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Put the tokens used in the place of those demanded."""
        self._add(taken, requests=0, tokens=[tokens - each.tokens for each in taken.demands])

    def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        self._add(taken, requests=-1, tokens=[-each.tokens for each in taken.demands])

    def ban(self, name: str, seconds: float) -> None:
        """Refuse all calls of `name` for so long."""
        self._run(self._ban, [_key("ban", name)], [str(max(round(seconds * 1000), 1))])

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _add(self, taken: RateGrant, *, requests: int, tokens: Sequence[int]) -> None:
        if taken.slot == _UNKNOWN or not (requests or any(tokens)):
            return
        keys = [_key("rate", each.name) for each in taken.demands]
        values = [self._window, str(taken.slot), str(requests), *map(str, tokens)]
        self._run(self._change, keys, values)

    def _run(self, script: Script, keys: Sequence[str], values: Sequence[str]) -> Any:
        """Run a script; None where Redis is away: it is not asked again for some seconds."""
        if time.monotonic() < self._away_until:
            return None
        try:
            answer = script(keys=list(keys), args=list(values))
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_SECONDS
            if not self._away:
                logger.warning("rate_limits.unavailable", error=str(error))
            self._away = True
            return None
        if self._away:
            self._away = False
            logger.info("rate_limits.back")
        return answer


def _key(kind: str, name: str) -> str:
    return f"celeriac:{kind}:{name}"


def _limit(value: int | None) -> str:
    return "-1" if value is None else str(value)
