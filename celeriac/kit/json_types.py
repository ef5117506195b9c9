"""JSON types, their bounds, and strict encoding and decoding."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from celeriac.kit.words import counted

JsonValue = Any
"""A JSON value. Recursive aliases cost more in casts than they catch, so this documents intent."""

JsonObject = Mapping[str, JsonValue]

MAX_DEPTH = 64
"""How many levels what users and agents give may be nested: variables, results, events."""

INT64 = range(-(2**63), 2**63)
BEYOND_64_BITS = "an integer beyond 64 bits"

_DEEPEST = 250
"""How many levels the encoder takes; what we put around values of users is within this."""

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL, as against the text of one: the backslash before the `u` is not escaped."""

_BIG = re.compile(r"[0-9]{19}")
_BIG_BYTES = re.compile(rb"[0-9]{19}")
_MOST_DIGITS = 20
"""Of an integer of 64 bits, its sign included."""

Default = Callable[[Any], Any]
"""Turns what JSON doesn't know into what it does; raises TypeError for the rest."""


def dumps(value: JsonValue) -> str:
    """Encode `value` as compact JSON text.

    UUIDs, dates and dataclasses are encoded as text and objects; NaN and infinity become null.
    Raises TypeError for what JSON can't hold.
    """
    return orjson.dumps(value).decode()


def canonical(value: JsonValue) -> bytes:
    """Encode `value` as JSON with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def storable(value: JsonValue, *, default: Default | None = None, depth: int = _DEEPEST) -> str:
    """Encode `value` as JSON text that PostgreSQL's jsonb takes: U+0000 becomes U+FFFD.

    Nothing is changed on the way: raises TypeError, with a reason that names the cure, for integers
    beyond 64 bits, NaN and infinity, lone surrogates, keys of which one would be lost, more than
    `depth` levels, and what is no JSON. UUIDs, dates and dataclasses are encoded as text and
    objects, or by `default` where one is given.
    """
    try:
        text = _encode(value, default)
    except TypeError:
        text = _encode(_plain(value, default, depth, ()), None)
    if "null" in text:
        _refuse_infinity(value, default)
    refuse_big_integers(text)
    if text.count("[") + text.count("{") > depth and is_deeper(orjson.loads(text), depth):
        raise TypeError(_too_deep(depth))
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text


def storable_text(text: str) -> str:
    """Return `text` as PostgreSQL's text takes it: no NUL, and no lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def loads(text: str | bytes) -> JsonValue:
    """Decode JSON text; raises ValueError with the place of the first fault.

    Integers beyond 64 bits become floats: use `refuse_big_integers` on what others have written.
    """
    return orjson.loads(text)


def checked(value: JsonValue) -> JsonValue:
    """Return what an agent gives, as it is, or raise the TypeError of `storable`.

    For data of at most `MAX_DEPTH` levels.
    """
    storable(value, depth=MAX_DEPTH)
    return value


def refuse_big_integers(text: str | bytes) -> None:
    """Accept JSON text or raise TypeError where it holds an integer beyond 64 bits."""
    if _BIG.search(text) if isinstance(text, str) else _BIG_BYTES.search(text):
        json.loads(text, parse_int=_int64)


def is_deeper(value: JsonValue, depth: int) -> bool:
    """Whether a decoded JSON value is nested deeper than `depth` levels."""
    level = [value]
    for _ in range(depth):
        inner: list[JsonValue] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        if not inner:
            return False
        level = inner
    return True


def _encode(value: JsonValue, default: Default | None) -> str:
    if default is None:
        return orjson.dumps(value).decode()
    # orjson leaves private fields of dataclasses out, without a word
    option = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
    return orjson.dumps(value, default, option).decode()


def _int64(digits: str) -> int:
    if len(digits) > _MOST_DIGITS or int(digits) not in INT64:
        raise TypeError(f"{BEYOND_64_BITS}; return a text")
    return int(digits)


def _refuse_infinity(value: JsonValue, default: Default | None) -> None:
    """Find out whether a null stands for a number that is none."""
    try:
        json.dumps(value, default=default or _known, allow_nan=False)
    except ValueError as error:
        raise TypeError(f"{error}: NaN and infinity are no JSON; use null or a text") from None


def _known(value: object) -> JsonObject | None:
    """Return what a dataclass holds, and null for all else that the encoder knows of itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return None


def _plain(
    value: JsonValue, default: Default | None, depth: int, path: tuple[int, ...]
) -> JsonValue:
    """Return `value` with texts as keys, or raise TypeError that says what is wrong with it.

    For what the encoder refuses, which says little; `path` are the ids of what is around it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return _plain_scalar(value)
    if id(value) in path:
        raise TypeError("Circular reference: it holds itself")
    if len(path) >= depth:
        raise TypeError(_too_deep(depth))
    inner = (*path, id(value))
    if isinstance(value, dict):
        return _plain_object(value, default, depth, inner)
    if isinstance(value, list | tuple):
        return [_plain(each, default, depth, inner) for each in value]
    made = _encoded_alone(value) if default is None else default(value)
    return _plain(made, default, depth, inner)


def _plain_scalar(value: JsonValue) -> JsonValue:
    match value:
        case None | bool():
            return value
        case int():
            if value not in INT64:
                raise TypeError(f"{BEYOND_64_BITS}; return a text")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise TypeError(f"{value} is not JSON compliant; use null or a text")
            return float(value)
    return _text(value)


def _encoded_alone(value: object) -> JsonValue:
    if (held := _known(value)) is not None:
        return held
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError:
        raise TypeError(f"it holds a {type(value).__name__}") from None


def _plain_object(
    value: Mapping[Any, JsonValue], default: Default | None, depth: int, path: tuple[int, ...]
) -> JsonObject:
    found: dict[str, JsonValue] = {}
    for key, each in value.items():
        name = _key(key)
        if name in found:
            raise TypeError(f"it holds two keys that are {name!r} in JSON: one would be lost")
        found[name] = _plain(each, default, depth, path)
    return found


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TypeError("a text holds half a character (surrogates not allowed)") from None
    return str(text)


def _key(key: object) -> str:
    match key:
        case str():
            return _text(key)
        case None | bool() | int() | float():
            return json.dumps(key)
    raise TypeError(f"keys must be texts or numbers, not {type(key).__name__}")


def _too_deep(depth: int) -> str:
    return f"it is nested deeper than {counted(depth, 'level')}; flatten it"


_PIECE = 64 * 1024
_DIGITS = 19
_LONG = re.compile(rb"[0-9]{19}")
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_AFTER_A_NUMBER = re.compile(rb"[,\]}\s]")
_LONGEST_INTEGER = 400
"""Integers of more digits are no valid JSON: no float comes near them."""


def has_more_values_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` values and names.

    Commas, colons and opening brackets outside of strings are counted: one for each value and each
    name, two for an empty list or object. What is no JSON is counted in the same way.
    """
    if _marks(text) <= limit:
        return False  # not even with those in strings
    total = 0
    for piece in _outside_strings(text):
        total += _marks(piece)
        if total > limit:
            return True
    return False


def long_integers(text: bytes) -> Iterator[int]:
    """Yield the integers of 19 digits and more in a text that is valid JSON."""
    if not _has_digits(text):
        return
    begun = b""
    for piece in _outside_strings(text):
        ends = [found.end() for found in _AFTER_A_NUMBER.finditer(piece, len(piece) - 1000)]
        ends = ends or [found.end() for found in _AFTER_A_NUMBER.finditer(piece)]
        end = ends[-1] if ends else 0
        for found in _LONG_INTEGER.finditer(begun + piece[:end]):
            yield int(found[0])
        # the end of a piece may be amid a number; one that is too long for an integer is none
        begun = piece[end:] if end else begun + piece
        if len(begun) > _LONGEST_INTEGER:
            begun = b"0."
    for found in _LONG_INTEGER.finditer(begun):
        yield int(found[0])


def _has_digits(text: bytes) -> bool:
    """Whether a text has 19 digits in a row, be it in a string."""
    for start in range(0, len(text), _PIECE):
        end = start + _PIECE + _DIGITS - 1
        if _LONG.search(text, start, min(end, len(text))):
            return True
    return False


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")


def _outside_strings(text: bytes) -> Iterator[bytes]:
    inside = False
    start = 0
    while start < len(text):
        piece = text[start : start + _PIECE]
        # an escape is not cut in two: an odd number of backslashes at the end begins one
        slashes = len(piece) - len(piece.rstrip(b"\\"))
        if slashes % 2 and start + len(piece) < len(text):
            piece = piece[:-1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
