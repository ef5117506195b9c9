"""A crew's requests at the gateway: admitted, bounded, charged, and their failures classified.

Needs no CrewAI: the child's modules are imported here as what they are, part of ours.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from celeriac.agents.crewai.program.client import CallLimit, GatewayClient, Model
from celeriac.agents.crewai.program.failures import CrewStopError
from celeriac.agents.crewai.program.progress import Channel, Progress
from celeriac.agents.gateway.loopback import AttemptGateway
from celeriac.domain.errors import BudgetSpentError
from celeriac.domain.usage import CallEstimate, Clip, Reservation
from celeriac.embedded.home import reserve_port
from tests.support.attempt_gateway import gateway_to
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import Exchange, ModelServer, tokens
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


class Kept(Channel):
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def send(self, message: Mapping[str, Any], *, last: bool = False) -> bool:
        self.sent.append(message)
        return True


class Reserving(RecordingContext):
    """Reserves something for each call."""

    async def admit(self, call: CallEstimate) -> Reservation | None:
        return await super().admit(call) or Reservation(uuid4())

    @property
    def settled(self) -> int:
        """How many reservations were charged or released."""
        return len(self.released) + len(self.calls)


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
def context(tmp_path: Path) -> Reserving:
    return Reserving(tmp_path)


def client(gateway: AttemptGateway, *, limit: int = 5) -> GatewayClient:
    model = Model(provider="test", name="m", base_url=gateway.base_url("test"), api_key=gateway.key)
    return GatewayClient(model, "planner", CallLimit(limit), Progress(Kept(), 1))


async def ask(crew: GatewayClient, gateway: AttemptGateway, prompt: str) -> httpx.Response:
    """Send a request from a thread, as if from the child; the server runs on this loop."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 50}
    return await asyncio.to_thread(
        crew.post,
        f"{gateway.base_url('test')}/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {gateway.key}"},
    )


async def test_a_call_is_admitted_counted_and_charged(
    server: ModelServer, context: Reserving
) -> None:
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway) as crew:
            response = await ask(crew, gateway, "whole")

    assert response.json()["choices"][0]["message"]["content"] == "Done."
    (planned,) = context.planned
    assert planned.input_tokens == 8 + 2, "a message, and the five letters of its text"
    assert planned.output_tokens == 50
    (used,) = context.calls
    assert context.reservations != [None], "its reservation is settled"
    assert (used.provider, used.model) == ("test", "m")
    assert (used.input_tokens, used.output_tokens) == (12, 3)
    assert used.cached_tokens == 12, "no more than were read"
    assert used.finish_reason == "stop"


async def test_a_budget_sets_the_limit_of_an_answer(
    server: ModelServer, context: Reserving
) -> None:
    server.forget()
    context.clip = Clip(17, "task's budget")
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway) as crew:
            await ask(crew, gateway, "whole of it")

    assert context.planned[0].least_tokens == 3 + 16
    (asked,) = server.received
    assert asked.body["max_tokens"] == 17
    assert "max_completion_tokens" not in asked.body


async def test_openai_is_given_the_limit_under_its_newer_name(
    server: ModelServer, context: Reserving
) -> None:
    server.forget()
    context.clip = Clip(17, "task's budget")
    async with gateway_to(server.base_url, context, name="openai") as gateway:
        body = {"model": "m", "messages": [{"role": "user", "content": "whole"}]}
        await asyncio.to_thread(
            httpx.post,
            f"{gateway.base_url('openai')}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {gateway.key}"},
            trust_env=False,
        )

    (asked,) = server.received
    assert asked.body["max_completion_tokens"] == 17
    assert "max_tokens" not in asked.body


async def test_a_call_that_is_not_admitted_stops_the_attempt(
    server: ModelServer, context: Reserving
) -> None:
    server.forget()
    context.denial = BudgetSpentError("The budget is spent.")

    async def run() -> None:
        async with gateway_to(server.base_url, context) as gateway:
            with client(gateway) as crew, pytest.raises(CrewStopError, match="budget is spent"):
                await ask(crew, gateway, "whole")

    with pytest.raises(BudgetSpentError):
        await run()

    assert server.received == []
    assert context.settled == 0


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
async def test_failures_are_told_apart(
    server: ModelServer, context: Reserving, prompt: str, failure: tuple[str, bool, str]
) -> None:
    code, retryable, words = failure
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway) as crew, pytest.raises(CrewStopError, match=words) as raised:
            await ask(crew, gateway, prompt)

    assert (raised.value.code, raised.value.retryable) == (code, retryable)
    assert KEY not in json.dumps(raised.value.details) + raised.value.message
    assert context.settled == 1, "the reservation is charged or released, once"
    if prompt == "limited":
        assert raised.value.retry_after == 17


async def test_a_server_that_is_away_may_come_back(context: Reserving) -> None:
    address = f"http://127.0.0.1:{reserve_port()}/v1"
    async with gateway_to(address, context) as gateway:
        with client(gateway) as crew, pytest.raises(CrewStopError, match="ConnectError") as raised:
            await ask(crew, gateway, "whole")
    assert raised.value.retryable
    assert context.released


async def test_a_call_may_wait_longer_than_its_client_would(
    server: ModelServer, tmp_path: Path
) -> None:
    class Waiting(Reserving):
        async def admit(self, call: CallEstimate) -> Reservation | None:
            await asyncio.sleep(0.6)
            return await super().admit(call)

    context = Waiting(tmp_path)
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway) as crew:
            crew.timeout = httpx.Timeout(0.2)
            response = await ask(crew, gateway, "whole")

    assert response.json()["choices"][0]["message"]["content"] == "Done."
    assert len(context.calls) == 1


async def test_calls_beyond_the_limit_are_not_made(server: ModelServer, context: Reserving) -> None:
    server.forget()
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway, limit=2) as crew:
            for _ in range(2):
                await ask(crew, gateway, "whole")
            with pytest.raises(CrewStopError, match="max_model_calls=2") as raised:
                await ask(crew, gateway, "whole")
    assert raised.value.code == "model_call_limit"
    assert len(server.received) == len(context.calls) == 2
