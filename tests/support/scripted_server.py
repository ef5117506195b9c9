"""What scripted model servers share: real HTTP and real streaming on the loopback, no model.

A scene decides what a request is answered with; which scene that is, and how answers look, is each
server's own. `Exchange.tries` counts requests that are alike, never the order of requests.
"""

import json
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Generic, Self, TypeVar

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def scene(self) -> str:
        """The name of the scene that is asked for."""
        raise AssertionError("each server knows where its scenes are named")


R = TypeVar("R", bound=Request)
E = TypeVar("E", bound="Answering[Any]")


class Answering(Generic[R]):
    """One request and its answer, as a scene writes it."""

    def __init__(self, handler: "_Handler", received: R, tries: int) -> None:
        self.received = received
        self.tries = tries
        """How many requests with the same conversation have come, this one included."""
        self._handler = handler
        self._server = handler.server.scripted

    def send(self, status: int, answer: object, headers: Mapping[str, str]) -> None:
        """Answer with JSON, without streaming; underscores in header names become hyphens."""
        body = json.dumps(answer).encode()
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.send_header("Connection", "close")
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def verbatim(
        self, status: int, headers: Mapping[str, str], body: bytes, *, dropped: bool
    ) -> None:
        """Answer with these bytes, in chunks; where it is `dropped`, the end is missing."""
        self._handler.send_response(status)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self._handler.send_header(name, value)
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()
        if body:
            self.raw(body)
        if dropped:
            self.drop()
        else:
            self.finish()

    def begin_stream(self) -> None:
        """Start the event stream."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()

    def raw(self, data: bytes) -> None:
        """Stream bytes as they are."""
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def finish(self) -> None:
        """End the stream in good form, whatever it holds."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Cut the connection off in the middle of the stream."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_leave(self) -> None:
        """Say nothing until the client has gone (kept in the server's `left`), or the test ends."""
        connection = self._handler.connection
        while not self._server.ending.is_set():
            if select.select([connection], [], [], _POLL_SECONDS)[0]:
                if not connection.recv(1, socket.MSG_PEEK):
                    self._server.left.append(self.received.scene)
                return


class ScriptedServer(Generic[R, E]):
    """What tests see: the address, what was asked, and which streams the client has closed."""

    reads: ClassVar[type[Request]]
    answers: ClassVar[type[Answering[Any]]]

    def __init__(self, scenes: Mapping[str, Callable[[E], None]]) -> None:
        self.received: list[R] = []
        self.left: list[str] = []
        self.ending = threading.Event()
        self.scenes = scenes
        self.tries: Counter[str] = Counter()
        self._http = _Server(self)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def asked(self, scene: str) -> list[R]:
        """The requests of one scene."""
        return [each for each in self.received if each.scene == scene]

    def forget(self) -> None:
        """Begin anew: nothing was asked, nobody left."""
        self.received.clear()
        self.left.clear()
        self.tries.clear()

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_SECONDS,))
        thread.start()
        try:
            yield self
        finally:
            self.ending.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, scripted: ScriptedServer[Any, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripted = scripted


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Play the scene that the request asks for."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        server = self.server.scripted
        received = server.reads(self.path, headers, body)
        server.received.append(received)
        conversation = json.dumps(body["messages"])
        server.tries[conversation] += 1
        try:
            server.scenes[received.scene](
                server.answers(self, received, server.tries[conversation])
            )
        except (BrokenPipeError, ConnectionResetError):
            server.left.append(received.scene)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""
