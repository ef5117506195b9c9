"""Texts cut to a length in characters, and texts of strangers that are shown to people."""

import unicodedata
from collections.abc import Mapping

from celeriac.kit.json_types import JsonValue
from celeriac.kit.words import counted

_DIRECTIONS = frozenset({"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"})
"""Directional formatting of Unicode, which can make text read differently than it is."""


def printable(text: str) -> str:
    """Return `text` as people may see it; models and agents may write any character.

    Control characters and those that change the direction of writing become replacement
    characters; line ends and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if _misleads(each) else each for each in text)


def _misleads(character: str) -> bool:
    if character in "\n\t":
        return False
    direction = unicodedata.bidirectional(character)
    return unicodedata.category(character) == "Cc" or direction in _DIRECTIONS


def clip(text: str, characters: int) -> str:
    """Return `text` cut to `characters`; a text that was cut ends in an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def clip_middle(text: str, characters: int) -> str:
    """Return `text` without its middle where it is longer than `characters`, and say how much.

    For tracebacks, whose first and last lines matter most.
    """
    if len(text) <= characters:
        return text
    half = characters // 2
    left_out = counted(len(text) - 2 * half, "character")
    return f"{text[:half]}\n… {left_out} left out …\n{text[-half:]}"


def clip_counted(text: str, characters: int) -> str:
    """Return `text` cut to `characters`, followed by the number of characters left out."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({counted(len(text) - characters, 'character')} more)"


def clip_values(value: JsonValue, characters: int) -> JsonValue:
    """Return a JSON value with each text in it cut by `clip_counted`."""
    match value:
        case str():
            return clip_counted(value, characters)
        case Mapping():
            return {key: clip_values(each, characters) for key, each in value.items()}
        case list() | tuple():
            return [clip_values(each, characters) for each in value]
    return value


def clipped_field(name: str, text: str, characters: int) -> dict[str, JsonValue]:
    """Return `text` as the field `name` of an event.

    A longer text is cut to `characters`, and `clipped` holds the number of characters left out.
    """
    field: dict[str, JsonValue] = {name: text[:characters]}
    if len(text) > characters:
        field["clipped"] = len(text) - characters
    return field
