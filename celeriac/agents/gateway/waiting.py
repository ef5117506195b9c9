"""How long a provider asks to wait, in every form that providers document."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_PAUSE = 5.0
"""Seconds that a call may wait in its slot. Longer waits end the attempt."""

LONGEST_WAIT = 86_400.0
"""The longest wait that is accepted, in seconds."""

_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_RESETS = re.compile(r"(?:x-|anthropic-)?rate-?limit-(?:[\w-]+-)?reset(?:-[\w-]+)?")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|d|h|m|s))")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_EPOCH = 1e9
_EPOCH_MS = 1e12
_DEPTH = 6


def wait_of(
    headers: Mapping[str, str], body: bytes = b"", *, now: float | None = None
) -> float | None:
    """Return the seconds that a refusal asks to wait; None if it names no time.

    `headers` are looked up in lower case, `now` is a Unix time. Milliseconds come first, then
    `Retry-After` (seconds, fractions, a date), then the times at which limits are reset, then the
    `retryDelay` of an error's body. 0 for a time that has passed.
    """
    now = time.time() if now is None else now
    named = {name.lower(): value.strip() for name, value in headers.items()}
    for name in _MILLISECONDS:
        milliseconds = _number(named.get(name))
        if milliseconds is not None:
            return _within(milliseconds / 1000)
    asked = named.get("retry-after")
    if asked:
        seconds = _number(asked)
        if seconds is None:
            seconds = _duration(asked)
        if seconds is None:
            seconds = _until_date(asked, now)
        if seconds is not None:
            return _within(seconds)
    resets = [*_resets(named, now)]
    if resets:
        return _within(max(resets))
    delays = [_duration(text) for text in _delays(body)]
    known = [delay for delay in delays if delay is not None]
    return _within(max(known)) if known else None


def _resets(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """Yield the seconds until each limit that is used up is reset."""
    for name, value in headers.items():
        found = _RESETS.fullmatch(name)
        if found is None:
            continue
        remaining = headers.get(name.replace("reset", "remaining"))
        if remaining is not None and _number(remaining) != 0:
            continue  # this limit is not used up
        seconds = _until(value, now)
        if seconds is not None:
            yield seconds


def _until(text: str, now: float) -> float | None:
    """Return the seconds until a reset, which is a duration, a Unix time or a date."""
    number = _number(text)
    if number is not None:
        if number >= _EPOCH_MS:
            return number / 1000 - now
        return number - now if number >= _EPOCH else number
    duration = _duration(text)
    return _until_date(text, now) if duration is None else duration


def _until_date(text: str, now: float) -> float | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(text)
        except (ValueError, TypeError, OverflowError):
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp() - now
    return None


def _duration(text: str) -> float | None:
    """Read `6m0s`, `20ms`, `1.5s`."""
    bare = text.strip().lower()
    parts = _DURATION.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _delays(body: bytes) -> Iterator[str]:
    """Yield each `retryDelay` of an error's body, as Google's APIs write it."""
    if b"retryDelay" not in body:
        return
    try:
        value = json.loads(body)
    except ValueError:
        return
    yield from _named(value, "retryDelay", _DEPTH)


def _named(value: Any, name: str, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and isinstance(value.get(name), str):
        yield value[name]
    if isinstance(value, (dict, list)):
        for child in children:
            yield from _named(child, name, depth - 1)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - not for NaN


def _within(seconds: float) -> float:
    return max(0.0, min(seconds, LONGEST_WAIT))
