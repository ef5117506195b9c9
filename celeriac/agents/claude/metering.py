"""What one answer of the Messages API used, read from its bytes as they pass."""

import asyncio
from collections.abc import Iterator
from typing import Any

from celeriac.agents.gateway.completions import count_of
from celeriac.agents.models import Tokens
from celeriac.kit.json_types import loads

_MAX_LINE = 4_000_000
"""Bytes of an unfinished line that are kept; a longer one tells nothing that we read."""

_READ = (b'"message_start"', b'"content_block_start"', b'"message_delta"')
_COUNTED = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_LOOKED_AT = 200
"""Bytes at the beginning of an event's data that tell its type."""


class UsageReader:
    """What is read of one answer: its usage, its stop reason, and the tool calls that it holds.

    Fed with the body, be it a stream of events or one JSON object. What can't be read is passed
    over: Claude Code judges the answer, this only counts.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.stop_reason: str | None = None
        self.tool_calls: list[str] = []
        """The ids of its tool calls, in order."""
        self.ended = asyncio.Event()
        """Set once nothing more comes."""
        self._usage: dict[str, int] = {}
        self._rest = b""

    @property
    def measured(self) -> bool:
        """Whether the provider said what was used."""
        return any(self._usage.values())

    @property
    def tokens(self) -> Tokens:
        """What was used; tokens read from and written to the cache are part of the input."""
        used = self._usage.get
        read, written = used("cache_read_input_tokens", 0), used("cache_creation_input_tokens", 0)
        return Tokens(
            input=used("input_tokens", 0) + read + written,
            output=used("output_tokens", 0),
            cached=read,
            cache_written=written,
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of a stream of events."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:") and any(each in line[:_LOOKED_AT] for each in _READ):
                self._event(_object(line.removeprefix(b"data:")))

    def take(self, body: bytes) -> None:
        """Take a whole answer that was not streamed."""
        message = _object(body)
        self._message(message)
        for block in _objects(message.get("content")):
            self._block(block)

    def _event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message_start":
                self._message(_part(event, "message"))
            case "content_block_start":
                self._block(_part(event, "content_block"))
            case "message_delta":
                self._count(_part(event, "usage"))
                self._stop(_part(event, "delta"))

    def _message(self, message: dict[str, Any]) -> None:
        model = message.get("model")
        if isinstance(model, str):
            self.model = model
        self._count(_part(message, "usage"))
        self._stop(message)

    def _block(self, block: dict[str, Any]) -> None:
        if block.get("type") == "tool_use" and isinstance(block.get("id"), str):
            self.tool_calls.append(block["id"])

    def _stop(self, source: dict[str, Any]) -> None:
        reason = source.get("stop_reason")
        if isinstance(reason, str):
            self.stop_reason = reason

    def _count(self, usage: dict[str, Any]) -> None:
        """Take over counts; those of later events are totals, and some gateways zero them there."""
        for name in _COUNTED:
            if name in usage:
                self._usage[name] = max(self._usage.get(name, 0), count_of(usage[name]))


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _part(source: dict[str, Any], name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> Iterator[dict[str, Any]]:
    return (
        (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())
    )
