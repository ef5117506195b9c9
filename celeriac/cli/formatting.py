"""Values as people read them: durations, times, sizes, money, cut texts."""

import json
import unicodedata
from datetime import datetime
from decimal import Decimal
from typing import Any

from celeriac.domain.usage import dollars

_MINUTE = 60
_HOUR = 3600
_DAY = 86_400
_KILO = 1024
_ABSENT = "-"
_TURNS = frozenset({"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"})
"""Directional formatting of Unicode: it can make text read as what it isn't."""


def duration(seconds: float | None) -> str:
    """Return `0.42 s`, `12.3 s`, `2 min 5 s`, `1 h 3 min` or `2 d 4 h`."""
    if seconds is None:
        return _ABSENT
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < _MINUTE:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def moment(at: datetime | None) -> str:
    """Return a time in the reader's own zone, to the second."""
    return _ABSENT if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def clock(at: datetime) -> str:
    """Return the time of day in the reader's own zone, to the millisecond."""
    return f"{at.astimezone():%H:%M:%S.%f}"[:-3]


def size(count: float) -> str:
    """Return bytes as `512 B`, `1.5 KiB`, `20.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KILO:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} TiB"


def tokens(read: int, written: int) -> str:
    """Return tokens read and written by models, as `120 → 45`."""
    return f"{read:,} → {written:,}" if read or written else _ABSENT


def money(amount: Decimal) -> str:
    """Return US dollars: two digits after the point, up to six of less than a dollar."""
    return f"${dollars(round(amount, 2 if amount >= 1 else 6))}"


def short(text: str, most: int) -> str:
    """Return `text` on one line and cut to `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def plain(value: Any) -> str:
    """Return a JSON value as text: strings as they are, everything else as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def printable(text: str) -> str:
    """Return `text` without what could command a terminal: models and errors hold anything.

    Control characters, and those that turn the direction of writing, become replacement
    characters; line ends and tabs stay.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if _commands_terminals(character) else character
        for character in text
    )


def _commands_terminals(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNS
