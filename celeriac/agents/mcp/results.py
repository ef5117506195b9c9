"""Results of tools as text and JSON for models."""

import math
import re
from typing import Any

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import ValidationError

from celeriac.kit.json_types import INT64, MAX_DEPTH, dumps, storable_text
from celeriac.kit.text import clip
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted

MAX_RESULT_CHARACTERS = 50_000
"""The longest result that a model gets; longer ones are cut."""

_SHOWN = 500
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters except tab and line ends: terminals interpret them."""


def sanitize_text(text: str) -> str:
    """Return `text` without control characters, cut to `MAX_RESULT_CHARACTERS`."""
    text = _CONTROLS.sub("\ufffd", storable_text(text[: MAX_RESULT_CHARACTERS + 1]))
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n[cut off: the result is longer]"


def error_text(error: BaseException) -> str:
    """Return the error of a server or a tool in one line."""
    if isinstance(error, ValidationError):
        place, fault = first_fault(error)
        return clip(sanitize_text(f"it sent invalid MCP ({place}: {fault})"), _SHOWN)
    text = " ".join(str(error).split()) or type(error).__name__
    return clip(sanitize_text(text), _SHOWN).rstrip(".")


def sanitize_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a value of a model or a tool as a JSON value that can be stored.

    A number that can't be stored unchanged becomes a text. Values nested deeper than `depth` levels
    are left out.
    """
    match value:
        case str():
            return storable_text(value)
        case dict() | list() | tuple() if depth == 0:
            return f"[left out: nested deeper than {MAX_DEPTH} levels]"
        case dict():
            return {
                storable_text(str(key)): sanitize_json(each, depth - 1)
                for key, each in value.items()
            }
        case list() | tuple():
            return [sanitize_json(each, depth - 1) for each in value]
        case int() | float():
            return _number(value)
    return value


def repaired(value: Any) -> Any:
    """Return a JSON value whose texts can be stored; numbers are not changed."""
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
    except ValueError:  # Python does not convert thousands of digits
        return f"an integer of {int(number).bit_length()} bits"


def text_of(result: CallToolResult, *, note: str = "") -> str:
    """Return a tool's answer as text; other content is replaced by its type and size.

    `note` says how the answer violates the tool's output schema; it is added to the text.
    """
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts.append(dumps(sanitize_json(result.structured_content)))
    if note:
        said = "This is the tool's answer" if parts else "The tool's answer is empty"
        parts.append(f"[{said}; {note}.]")
    elif not parts:
        parts.append("[The tool's answer is empty.]")
    return sanitize_text("\n".join(parts))


def _block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            length = counted(len(block.data), "character")
            return f"[{block.type} {block.mime_type}, {length} of base64]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
        case EmbeddedResource(resource=resource):
            return f"[resource {resource.uri}]"
        case ResourceLink():
            return f"[resource {block.name}: {block.uri}]"
