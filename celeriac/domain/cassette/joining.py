"""Pieces of streamed answers put together: fewer and longer, with the same meaning."""

from collections.abc import Sequence

from celeriac.domain.cassette.bodies import JsonEvent, StreamItem
from celeriac.kit.jsontypes import JsonValue

_GROWING = ("content", "partial_json", "reasoning", "reasoning_content", "text", "thinking")
"""The fields of a delta whose texts follow one another."""


def joined(items: Sequence[StreamItem]) -> tuple[StreamItem, ...]:
    """Return a stream with each run of pieces of the same text as one piece.

    How a provider cut its text says nothing, and a word that must not be kept may lie across a cut.
    """
    whole: list[StreamItem] = []
    for item in items:
        before = whole[-1] if whole else None
        if not (
            isinstance(before, JsonEvent) and isinstance(item, JsonEvent) and _grows(before, item)
        ):
            whole.append(item)
    return tuple(whole)


def _grows(before: JsonEvent, item: JsonEvent) -> bool:
    """Add the text of `item` to `before` where nothing else tells them apart."""
    first, second = _text_of(before.data), _text_of(item.data)
    if first is None or second is None or before.event != item.event:
        return False
    (place, name), (other, other_name) = first, second
    said, more = place[name], other[other_name]
    place[name] = other[other_name] = ""
    alike = name == other_name and before.data == item.data
    place[name], other[other_name] = (said + more if alike else said), more
    return alike


def _text_of(data: dict[str, JsonValue]) -> tuple[dict[str, JsonValue], str] | None:
    """Return where an event holds the one text that it adds, or None."""
    delta = data.get("delta")
    choices = data.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        delta = choices[0].get("delta")
    if not isinstance(delta, dict):
        return None
    found = [(delta, name) for name in _GROWING if isinstance(delta.get(name), str)]
    calls = delta.get("tool_calls")
    if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict):
        function = calls[0].get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            found.append((function, "arguments"))
    return found[0] if len(found) == 1 else None
