"""The small parts of the llm runner: deltas, the watchdog, schemas as models get them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelRetry, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel

from celeriac.agents.base import MAX_MESSAGE_CHARACTERS, emit_message
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.llm.agent_run import translated
from celeriac.agents.llm.conversation import Deltas
from celeriac.agents.llm.models import ChatModels
from celeriac.agents.llm.silence import SilenceLimits, Watchdog
from celeriac.agents.llm.structured import StructuredOutput
from celeriac.agents.models import ModelRef, Prices, Provider
from celeriac.domain.errors import AgentMisconfiguredError, ModelCallLimitError, ProviderError
from celeriac.domain.executions.events import EventType
from celeriac.domain.tasks import Limits
from celeriac.kit.text import clip
from celeriac.testing.context import MemoryRunContext

CHOICE = ModelRef(Provider(name="test", base_url="http://127.0.0.1:9/v1"), "model")


@pytest.fixture
def context(tmp_path: Path) -> MemoryRunContext:
    return MemoryRunContext(tmp_path)


@pytest.mark.anyio
async def test_pieces_are_joined_until_they_are_sent(context: MemoryRunContext) -> None:
    deltas = Deltas(context)
    for piece in ("a", "", "b", "c"):
        deltas.add("text", piece)
    assert context.deltas == [], "nothing goes out at once"

    deltas.flush()
    deltas.flush()

    assert context.deltas == [{"text": "abc"}]


@pytest.mark.anyio
async def test_pieces_go_out_by_themselves(context: MemoryRunContext) -> None:
    deltas = Deltas(context)
    deltas.add("text", "a")

    async with asyncio.timeout(10):
        while not context.deltas:  # noqa: ASYNC110 - the timer under test is the only event
            await asyncio.sleep(0.005)

    assert context.deltas == [{"text": "a"}]


@pytest.mark.anyio
async def test_thinking_and_text_stay_apart(context: MemoryRunContext) -> None:
    deltas = Deltas(context)
    deltas.add("thinking", "hm")
    deltas.add("text", "so")
    deltas.flush()

    assert context.deltas == [{"thinking": "hm"}, {"text": "so"}]


@pytest.mark.anyio
async def test_long_messages_say_how_much_is_missing(context: MemoryRunContext) -> None:
    await emit_message(context, "assistant", "x" * (MAX_MESSAGE_CHARACTERS + 7))

    ((kind, data),) = context.events
    assert kind is EventType.MESSAGE
    assert len(data["content"]) == MAX_MESSAGE_CHARACTERS
    assert data["clipped"] == 7


def test_clipped_text_has_the_length_asked_for() -> None:
    assert clip("abcdef", 6) == "abcdef"
    assert clip("abcdefg", 6) == "abcde…"


@pytest.mark.anyio
async def test_the_watchdog_rests_while_nothing_is_due() -> None:
    watchdog = Watchdog(SilenceLimits(first=0.01, between=0.01), CHOICE)

    async with watchdog.watching():
        watchdog.asked()
        watchdog.rest()
        await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_the_watchdog_bites_once_and_heeds_nothing_afterwards() -> None:
    watchdog = Watchdog(SilenceLimits(first=0.01, between=60), CHOICE)

    async def ask_a_silent_model() -> None:
        async with watchdog.watching():
            watchdog.asked()
            try:
                await asyncio.Event().wait()
            finally:
                watchdog.heard()
                watchdog.rest()

    with pytest.raises(ProviderError, match=r"test/model said nothing for 0\.01 seconds"):
        await ask_a_silent_model()


@pytest.mark.anyio
async def test_timeouts_of_others_pass_the_watchdog() -> None:
    watchdog = Watchdog(SilenceLimits(), CHOICE)

    with pytest.raises(TimeoutError):
        async with watchdog.watching():
            raise TimeoutError


def test_patience_ends_before_the_soft_limit() -> None:
    patience = SilenceLimits(first=300, between=60)

    assert patience.within(Limits(soft_seconds=540, hard_seconds=600)) == patience
    assert patience.within(Limits(soft_seconds=10, hard_seconds=20)) == SilenceLimits(8, 8)


def test_too_many_model_calls_are_final_and_name_the_field(context: MemoryRunContext) -> None:
    with (
        pytest.raises(ModelCallLimitError, match="max_model_calls=3") as raised,
        translated(CHOICE, ModelCalls(context, Prices()), max_model_calls=3),
    ):
        raise UsageLimitExceeded("The next request would exceed the request_limit of 3")

    assert not raised.value.retryable
    assert raised.value.details == {"max_model_calls": 3}


OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("schema", "answer", "value"),
    [
        (OBJECT, {"n": 1}, {"n": 1}),
        ({"type": "integer"}, {"value": 1}, 1),
        ({"anyOf": [{"type": "null"}, OBJECT]}, {"value": None}, None),
        ({"type": ["object", "null"]}, {"value": {"n": 1}}, {"n": 1}),
    ],
)
def test_a_fitting_answer_becomes_the_value(
    schema: dict[str, Any], answer: dict[str, Any], value: object
) -> None:
    output = StructuredOutput(schema)

    assert asyncio.run(output.check(answer)) == answer
    assert output.value(answer) == value


@pytest.mark.parametrize(
    ("schema", "answer", "fault"),
    [
        (OBJECT, {"n": "one"}, "integer"),
        (OBJECT, {}, "n"),
        ({"type": "integer"}, {}, "value is missing"),
        ({"type": "integer"}, {"value": "one"}, "integer"),
    ],
)
def test_the_model_is_told_what_is_wrong(
    schema: dict[str, Any], answer: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ModelRetry, match=fault):
        asyncio.run(StructuredOutput(schema).check(answer))


@pytest.mark.parametrize(
    ("text", "says"), [("so what", "no JSON"), ("[1]", "no JSON object"), ('{"n": "x"}', "integer")]
)
def test_an_unusable_answer_is_explained(text: str, says: str) -> None:
    assert says in asyncio.run(StructuredOutput(OBJECT).explain(text))


def test_a_recursive_schema_is_refused_with_its_field() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/node"}},
        "$defs": {"node": node},
    }

    with pytest.raises(AgentMisconfiguredError) as raised:
        StructuredOutput(schema)

    assert raised.value.details["field"] == "output_schema"


def test_a_schema_that_would_be_written_out_at_length_is_refused_before_it_is() -> None:
    levels: dict[str, Any] = {
        f"d{n}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{n + 1}"} for name in "ab"},
        }
        for n in range(14)
    }
    schema = {**levels["d0"], "$defs": {**levels, "d14": {"type": "string"}}}

    with pytest.raises(AgentMisconfiguredError, match="more than 5000 subschemas") as raised:
        StructuredOutput(schema)

    assert raised.value.details["field"] == "output_schema"


def test_the_callers_schema_stays_as_it_is() -> None:
    schema = {"type": "object", "properties": {"n": {"title": "N"}}}

    StructuredOutput(schema)

    assert schema == {"type": "object", "properties": {"n": {"title": "N"}}}


def test_models_are_made_anew_for_another_event_loop() -> None:
    """Connections belong to their loop: one that has ended takes them with it."""
    models = ChatModels(silence_seconds=1)

    async def twice() -> tuple[OpenAIChatModel, OpenAIChatModel]:
        return models.of(CHOICE), models.of(CHOICE)

    first, again = asyncio.run(twice())
    second, _ = asyncio.run(twice())

    assert first is again
    assert second is not first
    assert second.client is not first.client
