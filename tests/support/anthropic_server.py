"""A scripted Anthropic Messages server on the loopback: real HTTP, real streaming, no model.

What it answers is decided by the last `[scene]` that a user's text names, and by how many tool
results have come since (`tests.support.anthropic_scenes` holds the scenes): Claude Code puts
reminders of its own before and after what people say, so positions tell nothing.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.scripted_server import Answering, Request, ScriptedServer

Scene = Callable[["Exchange"], None]

_SCENE = re.compile(r"\[([a-z_]+)\]")


class Received(Request):
    """A message that was asked for."""

    @property
    def scene(self) -> str:
        """The scene that the newest text names."""
        named = [name for text in self._texts() for name in _SCENE.findall(text)]
        return named[-1] if named else ""

    @property
    def results(self) -> list[dict[str, Any]]:
        """The tool results since the scene was named, in order."""
        found: list[dict[str, Any]] = []
        for block in self._blocks():
            if block["type"] == "tool_result":
                found.append(block)
            elif block["type"] == "text" and _SCENE.search(block["text"]):
                found.clear()
        return found

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model may call."""
        return [tool["name"] for tool in self.body.get("tools", [])]

    @property
    def between_bars(self) -> str:
        """What the newest prompt has between `|` and `|`."""
        return next(text.split("|")[1] for text in reversed([*self._texts()]) if "|" in text)

    def said(self, words: str) -> bool:
        """Whether a text of a user holds `words`."""
        return any(words in text for text in self._texts())

    def _texts(self) -> Iterator[str]:
        return (block["text"] for block in self._blocks() if block["type"] == "text")

    def _blocks(self) -> Iterator[dict[str, Any]]:
        for message in self.body["messages"]:
            if message["role"] == "user":
                content = message["content"]
                yield from (
                    [{"type": "text", "text": content}] if isinstance(content, str) else content
                )


class Exchange(Answering[Received]):
    """One request and its answer, as a scene writes it."""

    _index = 0

    def text(self, *pieces: str, **usage: int) -> None:
        """Answer with a text, streamed in `pieces`."""
        self.begin(**usage)
        self.block({"type": "text", "text": ""}, [("text_delta", "text", each) for each in pieces])
        self.end("end_turn")

    def call(self, *calls: tuple[str, dict[str, Any]]) -> None:
        """Answer with tool calls: names with their arguments."""
        self.begin()
        for name, arguments in calls:
            self.call_block(name, arguments)
        self.end("tool_use")

    def begin(self, *, input_tokens: int = 100, **usage: int) -> None:
        """Start the event stream with its `message_start`."""
        self.begin_stream()
        message = {
            "id": f"msg_{len(self._server.received):06}",
            "type": "message",
            "role": "assistant",
            "model": self.received.body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": input_tokens, "output_tokens": 1, **usage},
        }
        self.event("message_start", message=message)

    def block(self, start: dict[str, Any], deltas: list[tuple[str, str, str]]) -> None:
        """Stream one content block; a delta is its type, its field and its text."""
        self.event("content_block_start", index=self._index, content_block=start)
        for kind, field, piece in deltas:
            self.event("content_block_delta", index=self._index, delta={"type": kind, field: piece})
        self.event("content_block_stop", index=self._index)
        self._index += 1

    def call_block(self, name: str, arguments: dict[str, Any]) -> None:
        """Stream one tool call."""
        number = f"toolu_{len(self._server.received):06}_{self._index}"
        start = {"type": "tool_use", "id": number, "name": name, "input": {}}
        self.block(start, [("input_json_delta", "partial_json", json.dumps(arguments))])

    def end(self, reason: str, *, output_tokens: int = 20) -> None:
        """Give the stop reason and the tokens, then end the stream in good form."""
        self.event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage={"output_tokens": output_tokens},
        )
        self.event("message_stop")
        self.finish()

    def event(self, kind: str, **data: object) -> None:
        """Stream one event."""
        self.raw(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode())

    def error(self, status: int, kind: str, message: str, **headers: str) -> None:
        """Refuse the request; underscores in header names become hyphens."""
        error = {"type": "error", "error": {"type": kind, "message": message}}
        self.send(status, error, headers)


class AnthropicServer(ScriptedServer[Received, Exchange]):
    """The server; its scenes are functions of an `Exchange`."""

    reads = Received
    answers = Exchange
