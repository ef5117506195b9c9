"""What is said of agents whose model server is asked."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from celeriac.agents.advice import Advice
from celeriac.agents.models import Providers
from celeriac.domain.agents import LlmAgent


class _Models(BaseHTTPRequestHandler):
    """A model server that says, or doesn't say, what it has."""

    answer: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        """Answer with what the test wants."""
        assert self.path == "/v1/models"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"data": [{"id": "smollm2"}, {"id": "other"}]}', "it has: local/other, local/smollm2"),
        (b'{"data": [{"id": "nosuch"}]}', None),
        (b'{"data": [{"id": "nosuch:latest"}]}', None),
        (b'{"data": [{"id": "other", "aliases": ["nosuch"]}]}', None),
        (b"[]", None),
        (b'{"data": []}', None),
        (b"not found", None),
        (b'{"data": [1]}', None),
    ],
)
def test_a_model_that_the_local_server_does_not_have_is_named(
    answer: bytes, said: str | None
) -> None:
    handler = type("Handler", (_Models,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            found = _local(server.server_port).warnings(LlmAgent(model="local/nosuch"))
        finally:
            server.shutdown()
            thread.join()
    if said is None:
        assert found == []
    else:
        assert said in found[0]


def test_a_server_is_asked_once_for_many_agents() -> None:
    asked: list[str] = []

    class Counting(_Models):
        answer = b'{"data": [{"id": "smollm2"}]}'

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            advice = _local(server.server_port)
            said = [advice.warnings(LlmAgent(model=f"local/{n}")) for n in range(100)]
        finally:
            server.shutdown()
            thread.join()
    assert all(said)
    assert len(asked) == 1


def test_a_local_server_that_is_away_is_no_reason_to_warn() -> None:
    assert _local(1).warnings(LlmAgent(model="local/nosuch")) == []


def _local(port: int) -> Advice:
    providers = Providers.configured(
        openai_base_url="https://api.openai.com/v1",
        openai_api_key=None,
        local_model_url=f"http://127.0.0.1:{port}/v1",
        others={},
    )
    return Advice(providers=providers, commands={}, modules=(), search_path="")
