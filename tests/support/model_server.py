"""A scripted OpenAI-compatible server on the loopback: real HTTP, real streaming, no model.

What it answers is decided by the first word of the last user message (`tests.support.model_scenes`
holds the scenes), never by the order of requests; `Exchange.tries` counts requests that are alike.
"""

import json
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Scene = Callable[["Exchange"], None]

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        users = [each for each in self.body["messages"] if each["role"] == "user"]
        return str(users[-1]["content"])

    @property
    def answered(self) -> list[str]:
        """What tools answered since the last user message, oldest first."""
        answers: list[str] = []
        for message in self.body["messages"]:
            if message["role"] == "tool":
                answers.append(str(message["content"]))
            elif message["role"] == "user":
                answers.clear()
        return answers

    @property
    def scene(self) -> str:
        """The first word that a user said."""
        users = [each for each in self.body["messages"] if each["role"] == "user"]
        return str(users[0]["content"]).split()[0]


class ModelServer:
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
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def asked(self, scene: str) -> list[Received]:
        """The requests of one scene."""
        return [each for each in self.received if each.scene == scene]

    def forget(self) -> None:
        """Begin anew: nothing was asked, nobody left."""
        self.received.clear()
        self.left.clear()
        self.tries.clear()

    @contextmanager
    def running(self) -> Iterator["ModelServer"]:
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
        self._calls = 0
        self._handler = handler
        self._server = handler.server.model_server

    def error(self, status: int, error: object, **headers: str) -> None:
        """Refuse the request with a JSON body; underscores in header names become hyphens."""
        self._send(status, {"error": error}, headers)

    def answer_with(self, body: object) -> None:
        """Answer with any JSON, without streaming."""
        self._send(200, body, {})

    def complete(
        self,
        text: str | None,
        *,
        calls: Sequence[tuple[str, object]] = (),
        reason: str | None = None,
        usage: object = None,
    ) -> None:
        """Answer whole, without streaming: with a text, or with calls of tools."""
        message: dict[str, object] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(calls, start=1)
            ]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": reason or ("tool_calls" if calls else "stop"),
        }
        self.answer_with(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": self.received.body["model"],
                "choices": [choice],
                "usage": usage or tokens(10, 5),
            }
        )

    def _send(self, status: int, answer: object, headers: Mapping[str, str]) -> None:
        body = json.dumps(answer).encode()
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def begin(self) -> None:
        """Start the event stream."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def say(self, text: str, *, field: str = "content") -> None:
        """Stream a piece of the answer."""
        self.chunk(choices=[{"index": 0, "delta": {field: text}, "finish_reason": None}])

    def call(self, name: str, arguments: object, *, call_id: str = "call_1") -> None:
        """Stream a call of a tool, its arguments in two pieces; a text stands as it is."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": text[:3]}
        first = {"index": 0, "id": call_id, "type": "function", "function": function}
        rest = {"index": 0, "function": {"arguments": text[3:]}}
        for piece in (first, rest):
            delta = {"tool_calls": [piece | {"index": self._calls}]}
            self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        self._calls += 1

    def calls(self, *calls: tuple[str, object]) -> None:
        """Stream a whole answer that is calls of tools, with their names and arguments."""
        self.begin()
        for number, (name, arguments) in enumerate(calls, start=1):
            self.call(name, arguments, call_id=f"call_{number}")
        self.stop("tool_calls")

    def stop(self, reason: str = "stop", *, usage: object = None) -> None:
        """Give the finish reason, then the usage (10 in, 5 out unless given), then end."""
        self.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
        if usage is not False:
            self.chunk(choices=[], usage=usage or tokens(10, 5))
        self.raw(b"data: [DONE]\n\n")
        self.end()

    def answer(self, *pieces: str) -> None:
        """Stream a whole answer."""
        self.begin()
        for piece in pieces:
            self.say(piece)
        self.stop()

    def chunk(self, **fields: object) -> None:
        """Stream one chunk object."""
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": self.received.body["model"],
            **fields,
        }
        self.raw(f"data: {json.dumps(chunk)}\n\n".encode())

    def raw(self, data: bytes) -> None:
        """Stream bytes as they are."""
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def end(self) -> None:
        """End the stream in good form."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Cut the connection off in the middle of the stream."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_leave(self) -> None:
        """Say nothing until the client has gone (kept in `ModelServer.left`), or the test ends."""
        connection = self._handler.connection
        while not self._server.ending.is_set():
            if select.select([connection], [], [], _POLL_SECONDS)[0]:
                if not connection.recv(1, socket.MSG_PEEK):
                    self._server.left.append(self.received.scene)
                return


def tokens(prompt: int, completion: int, *, cached: int = 0) -> dict[str, object]:
    """Return a usage object as OpenAI writes it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model_server: ModelServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model_server = model_server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.path, headers, body)
        server = self.server.model_server
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
