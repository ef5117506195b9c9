"""Connections: slow, many, large, by other names; over real sockets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from celeriac.api.app import create_app
from celeriac.api.core.protocol import SERVER_OPTIONS
from celeriac.kit.json_types import loads
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.api import AGENT, TASK, build_accounts
from tests.support.http_server import serving
from tests.support.waiting import wait_until

AGENTS = "/api/v1/agents"
ME = "/api/v1/me"


@contextmanager
def _served(settings: Settings, **limits: Any) -> Iterator[str]:
    changed = {"api": settings.api.model_copy(update=limits)}
    parts = build(settings.model_copy(update=changed), service="test", connections=5)
    with serving(create_app(parts), **SERVER_OPTIONS) as url:
        yield url
    parts.close()


class Line:
    """One connection, byte by byte."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self.received = b""

    def send(self, data: bytes) -> None:
        """Send bytes; the server may have closed."""
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in
                   (line.partition(":") for line in lines)}  # fmt: skip
        length = int(headers.get("content-length", 0))
        while len(self.received) < length:
            self._more()
        body, self.received = self.received[:length], self.received[length:]
        return int(first.split()[1]), headers, body

    def takes(self, data: bytes, *, times: int) -> bool:
        """Send bytes over and over; return False once the server has hung up."""
        try:
            for _ in range(times):
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionError):
            return False
        return True

    def ended(self) -> bool:
        """Read to the end of the connection, and return whether there is one."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def _more(self) -> None:
        piece = self.socket.recv(65536)
        assert piece, f"the server has closed after {self.received[:200]!r}"
        self.received += piece

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def _head(method: str, path: str, *lines: str, host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def test_after_a_refused_body_the_connection_serves_on(settings: Settings) -> None:
    body = b"[" * 3_000_000
    with _served(settings) as url, closing(Line(url)) as line:
        for _ in range(2):
            line.send(_head("POST", AGENTS, f"Content-Length: {len(body)}"))
            status, headers, _ = line.answer()  # before any of the body was sent
            assert (status, headers.get("connection")) == (401, None)
            line.send(body)
        line.send(_head("GET", "/health/live"))
        assert line.answer()[0] == 200


def test_a_body_that_was_not_asked_for_is_not_waited_for(settings: Settings) -> None:
    """With `Expect: 100-continue` a client may send the body or not: nobody could tell."""
    with _served(settings) as url, closing(Line(url)) as line:
        line.send(_head("POST", AGENTS, "Content-Length: 100", "Expect: 100-continue"))
        status, headers, _ = line.answer()
        assert (status, headers["connection"]) == (401, "close")
        assert line.ended()


def test_what_follows_a_refusal_is_read_up_to_the_limit_only(settings: Settings) -> None:
    with _served(settings, max_body_bytes=100_000) as url, closing(Line(url)) as line:
        line.send(_head("POST", AGENTS, "Transfer-Encoding: chunked"))
        assert line.answer()[0] == 401
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        assert not line.takes(piece, times=1_000), "64 MB after the answer"


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTTP/1.1\r\nHost: loc", b"\r\n"])
def test_headers_must_arrive_in_time(settings: Settings, sent: bytes) -> None:
    with _served(settings, header_seconds=0.3) as url, closing(Line(url)) as line:
        line.send(sent)
        if len(sent) > 2:
            status, headers, body = line.answer()
            assert (status, headers["connection"]) == (408, "close")
            assert loads(body)["code"] == "request_timeout"
        assert line.ended()


def test_later_headers_on_a_connection_must_arrive_in_time(settings: Settings) -> None:
    with _served(settings, header_seconds=0.3) as url, closing(Line(url)) as line:
        line.send(_head("GET", "/health/live"))
        assert line.answer()[0] == 200
        line.send(b"GET")
        assert line.answer()[0] == 408
        assert line.ended()


def test_bodies_must_arrive_in_time(settings: Settings, container: CoreServices) -> None:
    token = build_accounts(container).bootstrap_admin().token
    with _served(settings, body_seconds=0.3) as url:
        for lines in (("Content-Length: 100",), ("Transfer-Encoding: chunked",)):
            with closing(Line(url)) as line:
                line.send(_head("POST", AGENTS, f"Authorization: Bearer {token}",
                                "Content-Type: application/json", *lines))  # fmt: skip
                status, headers, body = line.answer()
                assert (status, headers["connection"]) == (408, "close")
                assert loads(body)["code"] == "request_timeout"
                assert line.ended()


def test_a_refused_body_must_end_in_time_as_well(settings: Settings) -> None:
    with _served(settings, body_seconds=0.3) as url, closing(Line(url)) as line:
        line.send(_head("POST", AGENTS, "Content-Length: 100"))
        assert line.answer()[0] == 401
        assert line.ended()


def test_headers_are_of_bounded_size(settings: Settings) -> None:
    with _served(settings) as url, closing(Line(url)) as line:
        line.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        assert not line.takes(b"X: " + b"x" * 1000 + b"\r\n", times=100_000), "100 MB of headers"


def test_long_headers_are_told_so(settings: Settings) -> None:
    with _served(settings) as url, closing(Line(url)) as line:
        line.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000)
        status, _, body = line.answer()
        assert (status, loads(body)["code"]) == (431, "headers_too_large")


def test_connections_are_bounded(settings: Settings) -> None:
    with _served(settings, max_connections=3) as url:
        held = [Line(url) for _ in range(3)]
        for line in held:
            line.send(_head("GET", "/health/live"))
            assert line.answer()[0] == 200
        with closing(Line(url)) as line:
            status, headers, body = line.answer()
            assert (status, loads(body)["code"]) == (503, "too_many_connections")
            assert int(headers["retry-after"]) > 0
        held.pop().close()

        def served() -> bool:
            with closing(Line(url)) as line:
                line.send(_head("GET", "/health/live"))
                return line.answer()[0] == 200

        wait_until(served, "there is room again")
        for line in held:
            line.close()


def test_slow_connections_give_their_place_back(settings: Settings) -> None:
    with _served(settings, header_seconds=0.5, max_connections=50) as url:
        slow = [Line(url) for _ in range(50)]
        for line in slow:
            line.send(b"GET / HTTP/1.1\r\n")

        def served() -> bool:
            with closing(Line(url)) as line:
                line.send(_head("GET", "/health/live"))
                return line.answer()[0] == 200

        wait_until(served, "others are served")
        for line in slow:
            line.close()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("LOCALHOST:80", True), ("127.0.0.1:8321", True), ("[::1]:1", True),
        ("celeriac.example.com", True), ("celeriac.example.com:443", True),
        ("a.inside.example", True), ("inside.example", False), ("evil.example", False),
        ("localhost.evil.example", False), ("evil.example:8321", False), ("10.0.0.1", False),
        ("localhost@evil.example", False), ("[::1].evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_only_known_hosts_are_answered(settings: Settings, host: str, allowed: bool) -> None:
    update = {"public_url": "https://celeriac.example.com", "allowed_hosts": ("*.inside.example",)}
    with _served(settings.model_copy(update=update)) as url, closing(Line(url)) as line:
        line.send(_head("GET", ME, host=host))
        status, _, body = line.answer()
        assert status == (401 if allowed else 421), body
        if not allowed:
            assert loads(body)["code"] == "host_refused"
            assert host not in loads(body)["detail"] or not host
        line.send(_head("GET", "/health/live", host=host))
        assert line.answer()[0] == 200, "probes ask by any name"


@pytest.mark.parametrize("lines", [("Host: localhost",), ("Host: evil.example",)])
def test_two_hosts_are_none(settings: Settings, lines: tuple[str, ...]) -> None:
    with _served(settings) as url, closing(Line(url)) as line:
        line.send(_head("GET", ME, *lines))
        assert line.answer()[0] in {400, 421}


def test_a_server_that_listens_everywhere_is_asked_by_addresses(settings: Settings) -> None:
    with _served(settings, host="0.0.0.0") as url, closing(Line(url)) as line:
        for host, status in (("10.1.2.3:8321", 401), ("[fe80::1]", 401), ("evil.example", 421),
                             (socket.gethostname(), 401)):  # fmt: skip
            line.send(_head("GET", ME, host=host))
            assert line.answer()[0] == status, host


def test_no_header_has_a_say_in_links(
    settings: Settings, container: CoreServices, ask: Callable[[CoreServices], str]
) -> None:
    update = {"allowed_hosts": ("*",)}
    token = build_accounts(container).bootstrap_admin().token
    approval = ask(container)
    with _served(settings.model_copy(update=update)) as url:
        response = httpx.post(
            f"{url}/api/v1/approvals/{approval}/link",
            headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example",
                     "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example",
                     "Authorization": f"Bearer {token}"},
            timeout=60,
        )  # fmt: skip
        assert response.status_code == 200, response.text
        assert response.json()["url"].startswith(f"{url}/api/v1/approvals/links/")


@pytest.mark.parametrize("path", ["/api/v1/tasks/", "/docs/", "/health/live/"])
def test_a_slash_too_many_is_no_redirect(settings: Settings, path: str) -> None:
    with _served(settings) as url:
        headers = {"X-Forwarded-Host": "evil.example"}
        response = httpx.get(f"{url}{path}", headers=headers, timeout=60)
        assert response.status_code == 404
        assert "location" not in response.headers


@pytest.fixture
def ask() -> Callable[[CoreServices], str]:
    """Makes an execution ask a question, and returns the question's id."""
    from fastapi.testclient import TestClient

    from tests.support.asking import a_form, park

    def make(container: CoreServices) -> str:
        token = build_accounts(container).bootstrap_admin(key_name="asks").token
        with TestClient(create_app(container)) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            client.post(AGENTS, json=AGENT)
            client.post("/api/v1/tasks", json=TASK)
            accepted = client.post(
                "/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}}
            ).json()
            park(container, accepted["execution_id"], a_form())
            (found,) = client.get("/api/v1/approvals").json()["items"]
        return str(found["id"])

    return make
