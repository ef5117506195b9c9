"""JSON: its types and one fast encoder for every place that stores or sends it."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL, as against the text of one: the backslash before the `u` is not escaped."""

JsonValue = Any
"""A JSON value. Recursive aliases cost more in casts than they catch, so this documents intent."""

JsonObject = Mapping[str, JsonValue]


def dumps(value: JsonValue) -> str:
    """Encode `value` as compact JSON text.

    UUIDs, dates and dataclasses are encoded as text and objects; NaN and infinity become null.
    Raises TypeError for what JSON can't hold.
    """
    return orjson.dumps(value).decode()


def canonical(value: JsonValue) -> bytes:
    """Encode `value` as JSON with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def storable(value: JsonValue) -> str:
    """Encode `value` as JSON text that PostgreSQL's jsonb takes: U+0000 becomes U+FFFD.

    Raises TypeError for what JSON can't hold, lone surrogates among it.
    """
    text = dumps(value)
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text


def storable_text(text: str) -> str:
    """Return `text` as PostgreSQL's text takes it: no NUL, and no lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def loads(text: str | bytes) -> JsonValue:
    """Decode JSON text; raises ValueError with the place of the first fault."""
    return orjson.loads(text)
