"""What tools and models say, made fit for a model, for storage and for people."""

import re
from typing import Any

from pydantic import ValidationError

from celeriac.agents.base import clip
from celeriac.kit.jsontypes import storable_text

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


def clean(value: Any) -> Any:
    """Return a JSON value whose texts, keys among them, hold nothing that can't be stored."""
    match value:
        case str():
            return storable_text(value)
        case dict():
            return {storable_text(str(key)): clean(each) for key, each in value.items()}
        case list() | tuple():
            return [clean(each) for each in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 10**300 else str(value)[:100]
        case _:
            return value
