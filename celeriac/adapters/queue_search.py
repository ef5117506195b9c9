"""Looks into queues in Redis: brings a message of a known task forward, and counts tasks by name.

Messages of unknown tasks may be ahead of a known one. A worker would take and return each in a
round trip; this searches them in one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis import Redis
from redis.commands.core import Script

_MOST_MESSAGES = 500
_MOST_BYTES = 1_000_000
"""Limits of one search per priority. They bound the time that Redis is blocked to milliseconds."""

_SEARCH = """
local most_messages, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local known = {}
for i = 3, #ARGV do known[ARGV[i]] = true end

local function rotate(key, count)
  for _ = 1, count do redis.call('RPOPLPUSH', key, key) end
end

local all_seen = 1
for _, key in ipairs(KEYS) do
  local length, place, bytes = redis.call('LLEN', key), 0, 0
  while place < length and place < most_messages and bytes < most_bytes do
    local item = redis.call('LINDEX', key, -1 - place)
    local name = string.match(item, '"task": ?"([^"\\\\]*)"')
    if name and known[name] then
      rotate(key, place)
      redis.call('RPUSH', KEYS[1], redis.call('RPOP', key))
      return {1, 0}
    end
    place, bytes = place + 1, bytes + #item
  end
  if place < length then
    rotate(key, place) -- the next search continues behind these
    all_seen = 0
  end
end
return {0, all_seen}
"""


def bring_known_forward(channel: Any, queue: str, names: Iterable[str]) -> tuple[bool, bool]:
    """Move the first message of `queue` whose task is in `names` to the head, in one round trip.

    Returns whether a known message is at the head now, and whether all messages were searched. The
    messages ahead of it move to the end, as if each had been taken and returned. Finds nothing with
    other brokers than Redis. Raises the errors of Redis.
    """
    if not is_redis(channel):
        return False, True
    client = _client(channel)
    search = Script(client, _SEARCH)
    known, all_seen = search(
        _keys(channel, queue), [_MOST_MESSAGES, _MOST_BYTES, *names], client=client
    )
    return bool(known), bool(all_seen)


_COUNT = """
local most_messages, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local counts, seen, bytes, all_seen = {}, 0, 0, 1
for _, key in ipairs(KEYS) do
  local length, place = redis.call('LLEN', key), 0
  while place < length do
    if seen >= most_messages or bytes >= most_bytes then
      all_seen = 0
      break
    end
    local item = redis.call('LINDEX', key, -1 - place)
    local name = string.match(item, '"task": ?"([^"\\\\]*)"') or ''
    counts[name] = (counts[name] or 0) + 1
    place, seen, bytes = place + 1, seen + 1, bytes + #item
  end
end
local found = {all_seen}
for name, count in pairs(counts) do
  table.insert(found, name)
  table.insert(found, count)
end
return found
"""


def count_tasks(
    channel: Any, queues: Sequence[str]
) -> tuple[Mapping[str, Mapping[str, int]], bool]:
    """Return how many messages of each task are in the queues, in a round trip for all queues.

    Of each queue _MOST_MESSAGES are looked at, those that are taken next; returns whether these are
    all. Messages that name no task count as "". For Redis only. Raises the errors of Redis.
    """
    client = _client(channel)
    found: dict[str, Mapping[str, int]] = {}
    complete = True
    with client.pipeline(transaction=False) as pipeline:
        for queue in queues:
            keys = _keys(channel, queue)
            pipeline.eval(_COUNT, len(keys), *keys, _MOST_MESSAGES, _MOST_BYTES)
        answers = pipeline.execute()
    for queue, (all_seen, *pairs) in zip(queues, answers, strict=True):
        complete = complete and bool(all_seen)
        names = [name.decode("utf-8", "replace") for name in pairs[::2]]
        found[queue] = dict(zip(names, map(int, pairs[1::2]), strict=True))
    return found, complete


def is_redis(channel: Any) -> bool:
    """Whether a channel of kombu is one of Redis, whose queues can be looked into."""
    return getattr(channel, "client", None) is not None and hasattr(channel, "_q_for_pri")


def _client(channel: Any) -> "Redis":
    # kombu's client would prefix the first key alone
    return Redis(connection_pool=channel.client.connection_pool)


def _keys(channel: Any, queue: str) -> list[str]:
    prefix, of_priority = channel.global_keyprefix, channel._q_for_pri  # noqa: SLF001 - kombu has no public name for it
    return [f"{prefix}{of_priority(queue, step)}" for step in channel.priority_steps]
