"""What was said: messages, and calls of tools with their answers, in order."""

from collections.abc import Iterator

from celeriac.domain.events import Event, EventType
from celeriac.domain.report.text import block, inline
from celeriac.kit.jsontypes import JsonObject

_LONGEST = 1_000_000
"""Characters of the conversation; what comes after it is in the events."""
_SAID = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


class Conversation:
    """Gathers the conversation while the log is read."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._parts: list[str] = []
        self._length = 0
        self._left_out = 0

    def add(self, event: Event) -> None:
        """Take up an event of any kind."""
        if event.type not in _SAID:
            return
        if self._length > _LONGEST:
            self._left_out += 1
            return
        part = _part(event)
        self._length += len(part)
        self._parts.append(part)

    def sections(self) -> Iterator[str]:
        """Yield the section, or nothing."""
        if self._parts:
            yield "## Conversation"
            yield from self._parts
        if self._left_out:
            yield f"*{self._left_out:,} more messages and tool calls are in the events.*"


def tool_of(data: JsonObject) -> str:
    """Return the name of the tool that a call or an answer is of; agents tell it their way."""
    return str(data.get("tool") or data.get("name") or "a tool")


def _part(event: Event) -> str:
    data = event.data
    if event.type is EventType.MESSAGE:
        parts = [f"### {inline(str(data.get('role', 'message')))}", block(data.get("content", ""))]
    elif event.type is EventType.TOOL_CALL:
        parts = [f"### Calls {inline(tool_of(data))}", block(data.get("arguments", data))]
    else:
        outcome = "failed" if data.get("failed") else "answers"
        took = f" after {data['ms']} ms" if isinstance(data.get("ms"), int | float) else ""
        parts = [f"### {inline(tool_of(data))} {outcome}{took}", block(data.get("content", data))]
    if data.get("clipped"):
        parts.append(f"*{inline(str(data['clipped']))} characters were cut when it was stored.*")
    return "\n\n".join(parts)
