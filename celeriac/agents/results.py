"""Encodes results of users' code as JSON, in the worker and in child processes alike."""

import dataclasses
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

from celeriac.domain.errors import PermanentError
from celeriac.kit.json_types import MAX_DEPTH, storable
from celeriac.kit.words import counted

MAX_RESULT_BYTES = 8_000_000


def encode_result(value: object, source: str) -> str:
    """Return `value` as JSON text.

    It may hold JSON types, pydantic models, dataclasses, UUIDs, dates, times, decimals and paths.
    Raises PermanentError that names `source` for other types, for values that can't be stored
    unchanged (see `storable`), and for more than `MAX_RESULT_BYTES`.
    """
    try:
        text = storable(value, default=_plain, depth=MAX_DEPTH)
    except (TypeError, ValueError, RecursionError) as error:
        raise PermanentError(
            f"{source} returned a value that JSON can't hold: {error}. Return JSON values, "
            "pydantic models or dataclasses."
        ) from error
    size = len(text.encode())
    if size > MAX_RESULT_BYTES:
        raise PermanentError(
            f"{source} returned {counted(size, 'byte')} of JSON; the limit is "
            f"{MAX_RESULT_BYTES:,}. Store large results elsewhere and return their location."
        )
    return text


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; raises TypeError for other types."""
    if hasattr(value, "model_dump"):  # pydantic, without importing it
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal, PurePath)):
        return str(value)
    if isinstance(value, float):
        return float(value)  # a subclass
    if isinstance(value, tuple):
        return list(value)  # a named one
    raise TypeError(f"it holds a {type(value).__name__}")
