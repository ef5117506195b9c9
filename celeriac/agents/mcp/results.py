"""What tools and models say, made fit for a model, for storage and for people."""

import math
import re
from typing import Any

from pydantic import ValidationError

from celeriac.agents.base import clip
from celeriac.kit.jsontypes import INT64, MAX_DEPTH, storable_text

MAX_RESULT_CHARACTERS = 50_000
"""How much of one result a model gets to see."""

_SHOWN = 500
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters but tab and line ends: terminals obey them, and jsonb has no NUL."""


def readable(text: str) -> str:
    """Return `text` without control characters, cut to what a model gets to see."""
    text = _CONTROLS.sub("\ufffd", storable_text(text[: MAX_RESULT_CHARACTERS + 1]))
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n[cut off: the result is longer than this]"


def told(error: BaseException) -> str:
    """Return in a line what went wrong with a server or a tool."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        return clip(readable(f"what it sends is no MCP ({place}: {fault['msg']})"), _SHOWN)
    text = " ".join(str(error).split()) or type(error).__name__
    return clip(readable(text), _SHOWN).rstrip(".")


def clean(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return what a model or a tool said as a JSON value that can be stored.

    No number is changed into another one: what can't be stored as a number becomes a text. What is
    nested deeper than `depth` levels is left out.
    """
    match value:
        case str():
            return storable_text(value)
        case dict() | list() | tuple() if depth == 0:
            return f"[left out: nested deeper than {MAX_DEPTH} levels]"
        case dict():
            return {storable_text(str(key)): clean(each, depth - 1) for key, each in value.items()}
        case list() | tuple():
            return [clean(each, depth - 1) for each in value]
        case int() | float():
            return _number(value)
    return value


def repaired(value: Any) -> Any:
    """Return a JSON value whose texts can be stored; its numbers stay as they are."""
    match value:
        case str():
            return storable_text(value)
        case dict():
            return {storable_text(str(key)): repaired(each) for key, each in value.items()}
        case list() | tuple():
            return [repaired(each) for each in value]
        case _:
            return value


def _number(number: Any) -> Any:
    if math.isfinite(number) if isinstance(number, float) else number in INT64:
        return number
    try:
        return str(number)
    except ValueError:  # Python refuses to write out thousands of digits
        return f"an integer of {int(number).bit_length()} bits"
