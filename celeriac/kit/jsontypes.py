"""JSON: its types and one fast encoder for every place that stores or sends it."""

from collections.abc import Mapping
from typing import Any

import orjson

JsonValue = Any
"""A JSON value. Recursive aliases cost more in casts than they catch, so this documents intent."""

JsonObject = Mapping[str, JsonValue]


def dumps(value: JsonValue) -> str:
    """Encode `value` as compact JSON text.

    UUIDs, dates and dataclasses are encoded as text and objects; NaN and infinity become null.
    Raises TypeError for what JSON can't hold.
    """
    return orjson.dumps(value).decode()


def loads(text: str | bytes) -> JsonValue:
    """Decode JSON text; raises ValueError with the place of the first fault."""
    return orjson.loads(text)
