"""Moves a message of a known task to the head of its queue in Redis.

Messages of unknown tasks may be ahead of it. A worker would take and return each in a round trip;
this searches them in one.
"""

from collections.abc import Iterable
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
    client = getattr(channel, "client", None)
    if client is None or not hasattr(channel, "_q_for_pri"):
        return False, True
    # kombu's client would prefix the first key alone
    client = Redis(connection_pool=client.connection_pool)
    prefix, of_priority = channel.global_keyprefix, channel._q_for_pri  # noqa: SLF001 - kombu has no public name for it
    keys = [f"{prefix}{of_priority(queue, step)}" for step in channel.priority_steps]
    search = Script(client, _SEARCH)
    known, all_seen = search(keys, [_MOST_MESSAGES, _MOST_BYTES, *names], client=client)
    return bool(known), bool(all_seen)
