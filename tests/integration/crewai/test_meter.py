"""The door through which a crew's requests go: leave, limit, books, and failures told apart.

Needs no CrewAI: the child's modules are imported here as what they are, part of ours.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from celeriac.agents.crewai.program.channel import Channel
from celeriac.agents.crewai.program.failures import CrewStopError
from celeriac.agents.crewai.program.meter import Allowance, MeteredClient, Model
from celeriac.agents.crewai.program.progress import Progress
from celeriac.embedded.home import reserve_port
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import Exchange, ModelServer, tokens


class Kept(Channel):
    """A channel that keeps what is sent, and answers every question at once."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []
        self.limit: int | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)

    def ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        self.sent.append(message)
        limit = {} if self.limit is None else {"output_tokens": self.limit}
        return {"type": "admitted", "id": "7", **limit}

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [each for each in self.sent if each["type"] == kind]


def whole(exchange: Exchange) -> None:
    exchange.complete("Done.", usage=tokens(12, 3, cached=99))


def filtered(exchange: Exchange) -> None:
    exchange.complete("So", reason="content_filter")


def hollow(exchange: Exchange) -> None:
    exchange.answer_with({"detail": "the model is loading"})


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    own = {"whole": whole, "filtered": filtered, "hollow": hollow}
    with ModelServer({**SCENES, **own}).running() as running:
        yield running


@pytest.fixture
def channel() -> Kept:
    return Kept()


def client(base_url: str, channel: Kept, *, limit: int = 5) -> MeteredClient:
    model = Model(provider="test", name="m", base_url=base_url, api_key=KEY)
    return MeteredClient(model, "planner", Allowance(limit), channel, Progress(channel, 1))


def ask(metered: MeteredClient, base_url: str, prompt: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 50}
    return metered.post(f"{base_url}/chat/completions", json=body)


def test_a_call_is_asked_for_counted_and_charged(server: ModelServer, channel: Kept) -> None:
    with client(server.base_url, channel) as metered:
        response = ask(metered, server.base_url, "whole")

    assert response.json()["choices"][0]["message"]["content"] == "Done."
    (asked,) = channel.of("admit")
    assert asked["input_tokens"] > 10
    assert asked["output_tokens"] == 50
    (used,) = channel.of("usage")
    assert (used["admission"], used["input_tokens"], used["output_tokens"]) == ("7", 12, 3)
    assert used["cached_tokens"] == 12, "no more than were read"
    assert used["finish_reason"] == "stop"


def test_a_budget_sets_the_limit_of_an_answer(server: ModelServer, channel: Kept) -> None:
    server.forget()
    channel.limit = 17
    with client(server.base_url, channel) as metered:
        ask(metered, server.base_url, "whole of it")

    assert channel.of("admit")[0]["least_input_tokens"] == 3
    (asked,) = server.received
    assert asked.body["max_tokens"] == 17
    assert "max_completion_tokens" not in asked.body


@pytest.mark.parametrize(
    ("prompt", "failure"),
    [
        ("unauthorized", ("provider_refused", False, "Check the API key of the provider 'test'")),
        ("quota", ("provider_refused", False, "Check the credits")),
        ("status 404", ("provider_refused", False, "Check the model name 'm'")),
        ("status 400", ("provider_refused", False, "test/m refuses the request: HTTP 400, No.")),
        ("status 500", ("provider_error", True, "test/m failed: HTTP 500")),
        ("status 529", ("provider_error", True, "test/m failed: HTTP 529")),
        ("limited", ("provider_rate_limited", True, "asks to slow down")),
        ("dropped", ("provider_error", True, "test/m failed: ")),
        ("malformed", ("provider_error", True, "holds no answer")),
        ("hollow", ("provider_error", True, "no choices: the model is loading")),
        ("filtered", ("content_filtered", False, "content filter")),
    ],
)
def test_failures_are_told_apart(
    server: ModelServer, channel: Kept, prompt: str, failure: tuple[str, bool, str]
) -> None:
    code, retryable, words = failure
    with (
        client(server.base_url, channel) as metered,
        pytest.raises(CrewStopError, match=words) as raised,
    ):
        ask(metered, server.base_url, prompt)

    assert (raised.value.code, raised.value.retryable) == (code, retryable)
    assert KEY not in json.dumps(raised.value.details) + raised.value.message
    settled = [*channel.of("release"), *channel.of("usage")]
    assert [each["admission"] for each in settled] == ["7"], "leave is used or given back, once"
    if prompt == "limited":
        assert raised.value.retry_after == 17


def test_a_server_that_is_away_may_come_back(channel: Kept) -> None:
    address = f"http://127.0.0.1:{reserve_port()}/v1"
    with (
        client(address, channel) as metered,
        pytest.raises(CrewStopError, match="ConnectError") as raised,
    ):
        ask(metered, address, "whole")
    assert raised.value.retryable
    assert channel.of("release")


def test_calls_beyond_the_limit_are_not_made(server: ModelServer, channel: Kept) -> None:
    server.forget()
    with client(server.base_url, channel, limit=2) as metered:
        for _ in range(2):
            ask(metered, server.base_url, "whole")
        with pytest.raises(CrewStopError, match="max_model_calls=2") as raised:
            ask(metered, server.base_url, "whole")
    assert raised.value.code == "model_call_limit"
    assert len(server.received) == len(channel.of("usage")) == 2
