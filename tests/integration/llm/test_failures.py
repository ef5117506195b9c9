"""How a run fails: whether another attempt may help, and what the error tells."""

import traceback

import pytest

from celeriac.agents.gateway.client import MAX_RETRIES
from celeriac.agents.llm.runner import LlmRunner
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ContentFilteredError,
    ExecutionError,
    OutputInvalidError,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusedError,
)
from celeriac.kit.json_types import JsonObject
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


async def failure(
    runner: LlmRunner, context: RecordingContext, prompt: str, schema: JsonObject | None = None
) -> ExecutionError:
    with pytest.raises(ExecutionError) as raised:
        await runner.run(llm_job(prompt, schema=schema), context)
    shown = "".join(traceback.format_exception(raised.value))
    assert KEY not in shown, "the key must not get into messages or tracebacks"
    return raised.value


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("unauthorized", "API key"),
        ("status 403", "API key"),
        ("status 404", "base URL"),
        ("status 400", "output schema"),
        ("status 422", "output schema"),
        ("status 413", "Check the agent"),
        ("toolong", "Shorten the prompt"),
        ("quota", "credits"),
    ],
)
async def test_refusals_are_final_and_say_what_to_check(
    runner: LlmRunner, context: RecordingContext, prompt: str, says: str
) -> None:
    error = await failure(runner, context, prompt)

    assert type(error) is ProviderRefusedError
    assert not error.retryable
    assert "test/model" in error.message
    assert says in error.message
    assert context.calls == [], "a request that was refused is no model call"


async def test_a_rate_limit_hands_back_the_wait(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    error = await failure(runner, context, "limited")

    assert isinstance(error, ProviderRateLimitedError)
    assert error.retryable
    assert error.retry_after == 17
    assert len(model_server.received) == 1, "no worker is held while a long wait passes"


@pytest.mark.parametrize("prompt", ["hurried", "flaky"])
async def test_passing_faults_are_repeated_by_the_client(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, prompt: str
) -> None:
    await runner.run(llm_job(prompt), context)

    assert len(model_server.received) == 2
    assert len(context.calls) == 1, "the answered request is the one that is charged"


@pytest.mark.parametrize("prompt", ["down", "status 500", "status 529", "status 409"])
async def test_server_faults_may_pass(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, prompt: str
) -> None:
    error = await failure(runner, context, prompt)

    assert type(error) is ProviderError
    assert error.retryable
    assert len(model_server.received) == 1 + MAX_RETRIES, "one layer of retries, and a bounded one"


@pytest.mark.parametrize("prompt", ["malformed", "misshapen", "inner", "truncated", "dropped"])
async def test_broken_streams_may_pass_and_are_charged(
    runner: LlmRunner, context: RecordingContext, prompt: str
) -> None:
    error = await failure(runner, context, prompt)

    assert type(error) is ProviderError, f"{error!r}"
    (call,) = context.calls
    assert call.finish_reason == "unfinished"
    assert call.cost is None


async def test_a_provider_out_of_reach_may_come_back(
    runner: LlmRunner, context: RecordingContext
) -> None:
    with pytest.raises(ProviderError, match="away/model failed: Connection error") as raised:
        await runner.run(llm_job("plain", model="away/model"), context)

    assert type(raised.value) is ProviderError
    assert context.calls == []


async def test_json_cut_off_by_the_token_limit_says_which_limit_to_raise(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    error = await failure(runner, context, "length", TICKET_SCHEMA)

    assert type(error) is OutputInvalidError
    assert "max_output_tokens" in error.message
    assert error.details["answer"] == '{"category": "bil'
    assert len(model_server.received) == 1, "a repair would be cut off as well"


@pytest.mark.parametrize(("prompt", "fault"), [("invalid", "category"), ("garbage", "no JSON")])
async def test_an_answer_that_stays_wrong_is_shown(
    runner: LlmRunner, context: RecordingContext, prompt: str, fault: str
) -> None:
    error = await failure(runner, context, prompt, TICKET_SCHEMA)

    assert type(error) is OutputInvalidError
    assert error.retryable
    assert fault in error.message
    assert error.details["answer"], "the offending text is there to look at"
    assert len(context.calls) == 2, "one repair, and no more"


async def test_an_empty_answer_is_none(runner: LlmRunner, context: RecordingContext) -> None:
    error = await failure(runner, context, "empty")
    assert type(error) is OutputInvalidError
    assert "nothing" in error.message


async def test_a_filtered_answer_is_final(runner: LlmRunner, context: RecordingContext) -> None:
    error = await failure(runner, context, "filtered")

    assert type(error) is ContentFilteredError
    assert not error.retryable
    assert context.calls[0].finish_reason == "content_filter"


async def test_the_limit_of_model_calls_holds(runner: LlmRunner, context: RecordingContext) -> None:
    job = llm_job("invalid", schema=TICKET_SCHEMA, max_model_calls=1)

    with pytest.raises(OutputInvalidError):
        await runner.run(job, context)

    assert len(context.calls) == 1


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("model", "provider/model"),
        ("nowhere/model", "Known providers: away, openai, test"),
    ],
)
async def test_models_that_cannot_be_found(
    runner: LlmRunner, context: RecordingContext, model: str, says: str
) -> None:
    with pytest.raises(AgentMisconfiguredError, match=says) as raised:
        await runner.run(llm_job("plain", model=model), context)

    assert raised.value.details["field"] == "model"


async def test_an_empty_prompt_is_refused(runner: LlmRunner, context: RecordingContext) -> None:
    with pytest.raises(AgentMisconfiguredError, match="prompt"):
        await runner.run(llm_job("  "), context)


async def test_a_schema_that_leads_back_to_itself_is_refused(
    runner: LlmRunner, context: RecordingContext
) -> None:
    schema = {
        "type": "object",
        "properties": {"child": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }
    with pytest.raises(AgentMisconfiguredError, match="output_schema"):
        await runner.run(llm_job("plain", schema=schema), context)
