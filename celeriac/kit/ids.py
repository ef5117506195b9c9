"""Identifiers: UUID version 7, ordered by time (RFC 9562, section 5.7)."""

import os
import threading
import time
from datetime import datetime
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_COUNTER_BITS = 12


class _Sequence:
    """Milliseconds with a 12-bit counter, so that the ids of one process always increase."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        now = time.time_ns() // 1_000_000 << _COUNTER_BITS
        with self._lock:
            self._last = now if now > self._last else self._last + 1
            return self._last


_sequence = _Sequence()


def uuid7() -> UUID:
    """Return a new UUIDv7, greater than all earlier ones of this process.

    Layout: 48 bits of Unix milliseconds, version, a 12-bit counter, variant, 62 random bits
    (method 1 of RFC 9562, section 6.2). More than 4,096 ids in a millisecond use the next
    millisecond.
    """
    stamp = _sequence.next()
    milliseconds, counter = stamp >> _COUNTER_BITS, stamp & 0xFFF
    tail = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=(milliseconds << 80) | _VERSION_7 | (counter << 64) | _VARIANT | tail)


def uuid7_at(moment: datetime) -> UUID:
    """Return the smallest UUIDv7 of `moment`, for ranges of ids by time."""
    milliseconds = min(max(int(moment.timestamp() * 1000), 0), (1 << 48) - 1)
    return UUID(int=(milliseconds << 80) | _VERSION_7 | _VARIANT)


def parse_uuid(text: str) -> UUID | None:
    """Return `text` as a UUID, or None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
