"""What a run of a model returns, what it tells on the way, and what it is charged."""

from decimal import Decimal

import pytest

from celeriac.agents.base import MAX_MESSAGE_CHARACTERS
from celeriac.agents.llm.runner import LlmRunner
from celeriac.domain.errors import PermanentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonObject, storable
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job, result_of
from tests.support.model_scenes import KEY, TICKET
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


def messages(context: RecordingContext) -> list[JsonObject]:
    return [data for kind, data in context.events if kind is EventType.MESSAGE]


@pytest.mark.requirement("E5")
async def test_a_text_is_streamed_logged_and_metered(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("plain please", model="test/some/model"), context)

    assert result_of(outcome) == "Hello there, friend."
    assert "".join(delta["text"] for delta in context.deltas) == result_of(outcome)
    assert messages(context) == [
        {"role": "user", "content": "plain please"},
        {"role": "assistant", "content": "Hello there, friend."},
    ]
    (call,) = context.calls
    assert call == ModelCall(
        provider="test",
        model="some/model",
        input_tokens=10,
        output_tokens=5,
        latency_ms=call.latency_ms,
        finish_reason="stop",
        cost=None,
    ), "a model without a price costs nothing that could be named"


async def test_what_cannot_be_stored_is_mended(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("broken", keep_session=True), context)

    assert result_of(outcome) == "half ? nul �"
    told = [data for _, data in context.events]
    for value in (*told, *context.deltas, context.messages, result_of(outcome)):
        assert "\\u0000" not in storable(value)


@pytest.mark.parametrize("scene", ["enormous", "enormous_within"])
async def test_an_answer_with_an_integer_beyond_64_bits_is_refused_not_rounded(
    runner: LlmRunner, context: RecordingContext, scene: str
) -> None:
    schema: JsonObject = {"type": "array" if "within" in scene else "integer"}
    with pytest.raises(PermanentError, match="an integer beyond 64 bits; return a text"):
        await runner.run(llm_job(scene, schema=schema), context)


async def test_the_request_carries_what_the_agent_says(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    job = llm_job("plain", instructions="Be brief.", temperature=0.2, max_output_tokens=80)

    await runner.run(job, context)

    (request,) = model_server.received
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in request.headers, "this is for OpenAI's eyes only"
    assert [each["role"] for each in request.body["messages"]] == ["system", "user"]
    assert request.body["messages"][0]["content"] == "Be brief."
    assert (request.body["temperature"], request.body["max_tokens"]) == (0.2, 80)
    assert request.body["stream_options"] == {"include_usage": True}


async def test_openai_gets_its_own_dialect(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    await runner.run(llm_job("plain", model="openai/gpt-4o", max_output_tokens=80), context)

    (request,) = model_server.received
    assert request.body["max_completion_tokens"] == 80
    assert request.headers["openai-organization"] == "org-for-openai-only"


async def test_cached_tokens_are_priced_apart(runner: LlmRunner, context: RecordingContext) -> None:
    await runner.run(llm_job("cached", model="test/priced"), context)

    (call,) = context.calls
    assert (call.input_tokens, call.cached_tokens, call.output_tokens) == (1000, 600, 100)
    assert call.cost == Decimal("0.0021"), "400 at $2, 600 at $0.50, 100 at $10, per million"


async def test_a_call_without_usage_has_no_cost(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("unmetered", model="test/priced"), context)

    assert result_of(outcome) == "Who counts?"
    (call,) = context.calls
    assert (call.input_tokens, call.output_tokens, call.cost) == (0, 0, None)


async def test_a_usage_that_cannot_be_is_kept_within_reason(
    runner: LlmRunner, context: RecordingContext
) -> None:
    await runner.run(llm_job("miscounted", model="test/priced"), context)

    (call,) = context.calls
    assert (call.input_tokens, call.cached_tokens) == (10, 10)


async def test_thinking_is_shown_apart_and_is_no_answer(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("thinking"), context)

    assert result_of(outcome) == "Fine."
    assert context.deltas == [{"thinking": "Let me see."}, {"text": "Fine."}]


async def test_a_text_cut_off_by_the_token_limit_is_still_an_answer(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("cut", max_output_tokens=5), context)

    assert result_of(outcome) == "Once upon a"
    assert context.calls[0].finish_reason == "length"


async def test_long_messages_are_clipped_in_the_log_only(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    prompt = "plain " + "x" * MAX_MESSAGE_CHARACTERS

    await runner.run(llm_job(prompt), context)

    assert model_server.received[0].prompt == prompt
    logged = messages(context)[0]
    assert logged["content"] == prompt[:MAX_MESSAGE_CHARACTERS]
    assert logged["clipped"] == 6


async def test_structured_output_is_asked_for_by_schema_and_checked(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    outcome = await runner.run(llm_job("structured", schema=TICKET_SCHEMA), context)

    assert result_of(outcome) == TICKET
    asked = model_server.received[0].body["response_format"]
    assert asked["type"] == "json_schema"
    schema = asked["json_schema"]["schema"]
    assert {key: schema[key] for key in TICKET_SCHEMA} == TICKET_SCHEMA, "no bound may get lost"


async def test_a_schema_that_is_no_object_is_wrapped_and_unwrapped(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/colour"},
        "$defs": {"colour": {"enum": ["red", "green"]}},
    }

    outcome = await runner.run(llm_job("several", schema=schema), context)

    assert result_of(outcome) == ["red", "green"]
    asked = model_server.received[0].body["response_format"]["json_schema"]["schema"]
    assert asked["type"] == "object"


async def test_a_wrong_answer_is_repaired_once_and_both_calls_are_charged(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    outcome = await runner.run(llm_job("repaired", schema=TICKET_SCHEMA), context)

    assert result_of(outcome) == TICKET
    assert len(context.calls) == len(model_server.received) == 2
    said = [message for message in messages(context) if message["role"] != "system"]
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant"]
    assert "category: the value is not one of" in str(said[2]["content"]), "it names the fault"
