"""Programs and plain functions call models at their attempt's gateway, with its key."""

import os
import sys
from collections.abc import Iterator
from decimal import Decimal

import pytest

from celeriac.agents.gateway.loopback import ModelAccess
from celeriac.agents.models import AnthropicEndpoint, Price, Prices, Provider
from celeriac.domain.errors import BudgetSpentError
from celeriac.domain.usage import Clip
from tests.support import anthropic_scenes
from tests.support.anthropic_server import AnthropicServer
from tests.support.confined import confined
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import Exchange, ModelServer, tokens
from tests.support.run_context import FUNCTIONS, RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner

pytestmark = pytest.mark.anyio

PROGRAM = """
import json, os, sys, urllib.error, urllib.request

prompt, provider = sys.argv[1:]
sys.stdin.readline()
key = os.environ["CELERIAC_MODEL_KEY"]
path, auth = "chat/completions", {"authorization": f"Bearer {key}"}
if provider == "anthropic":
    path, auth = "v1/messages", {"x-api-key": key}
body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": prompt}]}
request = urllib.request.Request(
    f"{os.environ['CELERIAC_MODEL_URL']}/{provider}/{path}", json.dumps(body).encode(),
    {"content-type": "application/json", **auth},
)
try:
    answer = json.load(urllib.request.urlopen(request))
except urllib.error.HTTPError as error:
    answer = {"status": error.code, **json.load(error)}
print(json.dumps({"type": "result", "value": {"answer": answer, "environment": dict(os.environ)}}))
"""


def whole(exchange: Exchange) -> None:
    exchange.complete("Done.", usage=tokens(12, 3))


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer({**SCENES, "whole": whole}).running() as server:
        yield server


@pytest.fixture(scope="module")
def claude() -> Iterator[AnthropicServer]:
    with AnthropicServer(anthropic_scenes.SCENES).running() as server:
        yield server


@pytest.fixture
def access(models: ModelServer, claude: AnthropicServer) -> ModelAccess:
    models.forget()
    claude.forget()
    return ModelAccess(
        [Provider(name="test", base_url=models.base_url, api_key=KEY)],
        AnthropicEndpoint(claude.base_url, anthropic_scenes.KEY),
        Prices({"test/m": Price(input=Decimal(2), output=Decimal(10))}),
    )


@pytest.fixture
def program(access: ModelAccess) -> CommandRunner:
    return CommandRunner(
        commands={"program": [sys.executable, "-c", PROGRAM]},
        confinement=confined({"PATH": os.environ["PATH"]}),
        models=access,
    )


async def test_a_program_s_call_is_admitted_charged_and_made_with_the_worker_s_key(
    program: CommandRunner, context: RecordingContext, models: ModelServer
) -> None:
    outcome = await program.run(command_job("program", "whole", "test"), context)

    assert isinstance(outcome.result, dict)
    assert outcome.result["answer"]["choices"][0]["message"]["content"] == "Done."
    assert KEY not in str(outcome.result), "the provider's key stays in the worker"
    (asked,) = models.received
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    (planned,), (call,) = context.planned, context.calls
    assert (planned.provider, planned.model, planned.output_tokens) == ("test", "m", 50)
    assert (call.input_tokens, call.output_tokens) == (12, 3)
    assert call.cost == Decimal("0.000054")


async def test_a_function_in_a_child_has_the_same_gateway(
    access: ModelAccess, context: RecordingContext, models: ModelServer
) -> None:
    runner = PythonRunner(
        modules=(FUNCTIONS,), confinement=confined({"PATH": os.environ["PATH"]}), models=access
    )

    outcome = await runner.run(python_job("ask_model", provider="test", prompt="whole"), context)

    assert outcome.result == "Done."
    assert [call.finish_reason for call in context.calls] == ["stop"]


async def test_the_messages_api_is_there_too(
    program: CommandRunner, context: RecordingContext, claude: AnthropicServer
) -> None:
    await program.run(command_job("program", "[refused]", "anthropic"), context)

    (asked,) = claude.received
    assert asked.headers["x-api-key"] == anthropic_scenes.KEY
    assert [call.finish_reason for call in context.calls] == ["http_401"]


async def test_a_budget_bounds_a_program_s_answers(
    program: CommandRunner, context: RecordingContext, models: ModelServer
) -> None:
    context.clip = Clip(17, "task's budget")
    await program.run(command_job("program", "whole", "test"), context)
    assert models.received[0].body["max_tokens"] == 17


async def test_a_spent_budget_ends_the_program(
    program: CommandRunner, context: RecordingContext, models: ModelServer
) -> None:
    context.denial = BudgetSpentError("The budget is spent.")
    with pytest.raises(BudgetSpentError):
        await program.run(command_job("program", "whole", "test"), context)
    assert models.received == []


async def test_a_refusal_is_described_to_the_program(
    program: CommandRunner, context: RecordingContext
) -> None:
    outcome = await program.run(command_job("program", "limited", "test"), context)

    assert isinstance(outcome.result, dict)
    answer = outcome.result["answer"]
    assert answer["status"] == 429
    error = answer["error"]
    assert (error["code"], error["retryable"], error["retry_after"]) == (
        "provider_rate_limited", True, 17.0
    )  # fmt: skip
    assert context.calls == []
