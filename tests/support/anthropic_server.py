"""A scripted Anthropic Messages server on the loopback: real HTTP, real streaming, no model.

What it answers is decided by the last `[scene]` that a user's text names, and by how many tool
results have come since (`tests.support.anthropic_scenes` holds the scenes): Claude Code puts
reminders of its own before and after what people say, so positions tell nothing.
"""

import json
import re
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Scene = Callable[["Exchange"], None]

_SCENE = re.compile(r"\[([a-z_]+)\]")
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

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


class AnthropicServer:
    """What tests see: the address, what was asked, and which streams the client has closed."""

    def __init__(self, scenes: Mapping[str, Scene]) -> None:
        self.received: list[Received] = []
        self.left: list[str] = []
        self.ending = threading.Event()
        self.scenes = scenes
        self.tries: Counter[str] = Counter()
        self._http = _Server(self)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def asked(self, scene: str) -> list[Received]:
        """The requests of one scene."""
        return [each for each in self.received if each.scene == scene]

    def forget(self) -> None:
        """Begin anew: nothing was asked, nobody left."""
        self.received.clear()
        self.left.clear()
        self.tries.clear()

    @contextmanager
    def running(self) -> Iterator["AnthropicServer"]:
        thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_SECONDS,))
        thread.start()
        try:
            yield self
        finally:
            self.ending.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()


class Exchange:
    """One request and its answer, as a scene writes it."""

    def __init__(self, handler: "_Handler", received: Received, tries: int) -> None:
        self.received = received
        self.tries = tries
        """How many requests with the same conversation have come, this one included."""
        self._handler = handler
        self._server = handler.server.anthropic_server
        self._index = 0

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
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()
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

    def finish(self) -> None:
        """End the stream in good form, whatever it holds."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def event(self, kind: str, **data: object) -> None:
        """Stream one event."""
        self.raw(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode())

    def raw(self, data: bytes) -> None:
        """Stream bytes as they are."""
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def error(self, status: int, kind: str, message: str, **headers: str) -> None:
        """Refuse the request; underscores in header names become hyphens."""
        error = {"type": "error", "error": {"type": kind, "message": message}}
        self._send(status, json.dumps(error).encode(), headers)

    def drop(self) -> None:
        """Cut the connection off in the middle of the stream."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_leave(self) -> None:
        """Say nothing until the client has gone (kept in `left`), or the test ends."""
        connection = self._handler.connection
        while not self._server.ending.is_set():
            if select.select([connection], [], [], _POLL_SECONDS)[0]:
                if not connection.recv(1, socket.MSG_PEEK):
                    self._server.left.append(self.received.scene)
                return

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: AnthropicServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.anthropic_server = server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer a request for a message."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.path, headers, body)
        server = self.server.anthropic_server
        server.received.append(received)
        conversation = json.dumps(body["messages"])
        server.tries[conversation] += 1
        try:
            server.scenes[received.scene](Exchange(self, received, server.tries[conversation]))
        except (BrokenPipeError, ConnectionResetError):
            server.left.append(received.scene)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""
