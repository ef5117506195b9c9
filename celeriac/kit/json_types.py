"""JSON types, their bounds, and strict encoding and decoding."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from celeriac.kit.words import counted

JsonValue = Any
"""A JSON value. Only documentation: a recursive type would need many casts."""

JsonObject = Mapping[str, JsonValue]

MAX_DEPTH = 64
"""Levels of nesting in the values of users and agents: variables, results, events."""

INT64 = range(-(2**63), 2**63)
BEYOND_64_BITS = "an integer beyond 64 bits"

_DEEPEST = 250
"""Levels of nesting that the encoder accepts; leaves room for what we put around users' values."""

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL: the backslash before the `u` is not itself escaped."""

_BIG = re.compile(r"[0-9]{19}")
_BIG_BYTES = re.compile(rb"[0-9]{19}")
_MOST_DIGITS = 20
"""Characters of an integer of 64 bits, including its sign."""

Default = Callable[[Any], Any]
"""Converts a value without a JSON form to one with it; raises TypeError for others."""


def dumps(value: JsonValue) -> str:
    """Encode `value` as compact JSON text.

    UUIDs and dates become texts, dataclasses objects, NaN and infinity null. Raises TypeError for
    values without a JSON form.
    """
    return orjson.dumps(value).decode()


def canonical(value: JsonValue) -> bytes:
    """Encode `value` as JSON with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def storable(value: JsonValue, *, default: Default | None = None, depth: int = _DEEPEST) -> str:
    """Encode `value` as JSON text that PostgreSQL's json and jsonb accept: U+0000 becomes U+FFFD.

    Changes nothing else. Raises TypeError, with a reason that names the cure, for integers beyond
    64 bits, NaN and infinity, lone surrogates, equal keys, more than `depth` levels, and values
    without a JSON form. UUIDs and dates become texts and dataclasses objects, unless `default` is
    given.
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
    return _without_nul(text) if "\\u0000" in text else text


def has_utf8(text: str) -> bool:
    """Whether a text can be encoded: it has no lone surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def storable_text(text: str) -> str:
    """Return `text` as PostgreSQL's text accepts it: without NUL and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def loads(text: str | bytes) -> JsonValue:
    """Decode JSON text. Raises ValueError with the place of the first error.

    Integers beyond 64 bits become floats: use `refuse_big_integers` on text of others.
    """
    return orjson.loads(text)


def checked(value: JsonValue) -> JsonValue:
    """Return the value unchanged, or raise the TypeError of `storable`.

    For values of agents, of at most `MAX_DEPTH` levels.
    """
    storable(value, depth=MAX_DEPTH)
    return value


def refuse_big_integers(text: str | bytes) -> None:
    """Raise TypeError where a JSON text has an integer beyond 64 bits."""
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
    # orjson silently leaves private fields of dataclasses out
    option = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
    return orjson.dumps(value, default, option).decode()


def _without_nul(text: str) -> str:
    found = _NUL.sub(r"\1\\ufffd", text)
    json.loads(found, object_pairs_hook=_refuse_equal_keys)
    return found


def _refuse_equal_keys(pairs: Sequence[tuple[str, JsonValue]]) -> None:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise TypeError(_equal_keys(name))
        names.add(name)


def _equal_keys(name: str) -> str:
    return f"it holds two keys that are {name!r} in JSON: one would be lost"


def _int64(digits: str) -> int:
    if len(digits) > _MOST_DIGITS or int(digits) not in INT64:
        raise TypeError(f"{BEYOND_64_BITS}; return a text")
    return int(digits)


def _refuse_infinity(value: JsonValue, default: Default | None) -> None:
    """Raise TypeError where a null of the encoder stands for NaN or infinity."""
    try:
        json.dumps(value, default=default or _known, allow_nan=False)
    except ValueError as error:
        raise TypeError(f"{error}: NaN and infinity are no JSON; use null or a text") from None


def _known(value: object) -> JsonObject | None:
    """Return the fields of a dataclass, and None for other values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return None


def _plain(
    value: JsonValue, default: Default | None, depth: int, path: tuple[int, ...]
) -> JsonValue:
    """Return `value` with texts as keys, or raise TypeError with a precise reason.

    For values that the encoder refuses without one; `path` has the ids of the containers around.
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
            raise TypeError(_equal_keys(name))
        found[name] = _plain(each, default, depth, path)
    return found


def _text(text: str) -> str:
    if not has_utf8(text):
        raise TypeError("a text holds half a character (surrogates not allowed)")
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
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_AFTER_A_NUMBER = re.compile(rb"[,\]}\s]")
_LONGEST_INTEGER = 400
"""Longer integers are refused elsewhere: they exceed every float."""


def has_more_values_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` values and names.

    Counts commas, colons and opening brackets outside of strings: one for each value and each name,
    two for an empty list or object. Malformed JSON is counted in the same way.
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
    """Yield the integers of 19 or more digits in valid JSON text."""
    if not _has_digits(text):
        return
    begun = b""
    for piece in _outside_strings(text):
        ends = [found.end() for found in _AFTER_A_NUMBER.finditer(piece, len(piece) - 1000)]
        ends = ends or [found.end() for found in _AFTER_A_NUMBER.finditer(piece)]
        end = ends[-1] if ends else 0
        for found in _LONG_INTEGER.finditer(begun + piece[:end]):
            yield int(found[0])
        # a piece may end within a number; one that is too long is not an integer
        begun = piece[end:] if end else begun + piece
        if len(begun) > _LONGEST_INTEGER:
            begun = b"0."
    for found in _LONG_INTEGER.finditer(begun):
        yield int(found[0])


def _has_digits(text: bytes) -> bool:
    """Whether a text has 19 digits in a row, also within strings."""
    for start in range(0, len(text), _PIECE):
        end = start + _PIECE + _DIGITS - 1
        if _BIG_BYTES.search(text, start, min(end, len(text))):
            return True
    return False


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")


def _outside_strings(text: bytes) -> Iterator[bytes]:
    inside = False
    start = 0
    while start < len(text):
        piece = text[start : start + _PIECE]
        # keep escapes whole: an odd number of backslashes at the end starts one
        slashes = len(piece) - len(piece.rstrip(b"\\"))
        if slashes % 2 and start + len(piece) < len(text):
            piece = piece[:-1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
