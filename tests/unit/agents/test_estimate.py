"""What a request to a model is expected to use."""

import json
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.gateway.anthropic import Messages
from celeriac.agents.gateway.calls import (
    USUAL_OUTPUT_TOKENS,
    ModelCalls,
    WireFormat,
    tokens_of_bytes,
    words_of,
)
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.models import Prices, Provider
from celeriac.domain.usage import CallEstimate, Clip
from celeriac.kit.json_types import dumps
from celeriac.testing.context import MemoryRunContext

pytestmark = pytest.mark.anyio

PROVIDER = Provider(name="test", base_url="http://127.0.0.1:9/v1")


def asked(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": t} for t in texts], **more}


async def estimate(
    tmp_path: Path, body: bytes | dict[str, Any], wire: WireFormat | None = None
) -> CallEstimate:
    context = MemoryRunContext(tmp_path)
    sent = body if isinstance(body, bytes) else dumps(body).encode()
    call = await ModelCalls(context, Prices()).begin(
        PROVIDER, wire or ChatCompletions(PROVIDER), sent
    )
    await call.end()
    return context.planned[0]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_output_is_what_the_answer_may_have(tmp_path: Path, field: str) -> None:
    assert (await estimate(tmp_path, asked("Hello"))).output_tokens == USUAL_OUTPUT_TOKENS
    assert (await estimate(tmp_path, asked("Hello", **{field: 7}))).output_tokens == 7


async def test_input_grows_with_all_that_is_sent(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "search", "description": "d" * 300}}
    call = {"id": "1", "type": "function", "function": {"name": "s", "arguments": "x" * 300}}
    called = asked("Hello")
    called["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
    short = (await estimate(tmp_path, asked("Hello"))).input_tokens

    assert (await estimate(tmp_path, asked("i" * 300, "Hello"))).input_tokens >= short + 100
    assert (await estimate(tmp_path, asked("Hello", tools=[tool]))).input_tokens >= short + 100
    assert (await estimate(tmp_path, called)).input_tokens >= short + 100


async def test_escaped_texts_are_as_long_as_plain_ones(tmp_path: Path) -> None:
    plain, escaped = asked("素早い茶色の狐" * 50), json.dumps(asked("素早い茶色の狐" * 50))
    sizes = [(await estimate(tmp_path, each)).input_tokens for each in (plain, escaped.encode())]

    assert sizes[0] == sizes[1]


async def test_a_lone_surrogate_is_some_text_and_no_error(tmp_path: Path) -> None:
    body = json.dumps(asked("\udce9 word", stream=True)).encode()
    context = MemoryRunContext(tmp_path)
    context.clip = Clip(17, "task's budget")
    call = await ModelCalls(context, Prices()).begin(PROVIDER, ChatCompletions(PROVIDER), body)
    await call.end()

    assert context.planned[0].model == "m"
    assert json.loads(call.body)["max_tokens"] == 17
    assert json.loads(call.body)["messages"] == json.loads(body)["messages"]


async def test_what_cannot_be_read_is_estimated_by_its_size(tmp_path: Path) -> None:
    planned = await estimate(tmp_path, b"\xff" * 300)

    assert (planned.model, planned.input_tokens) == ("unknown", 100)


async def test_claude_code_s_room_for_an_answer_is_not_reserved(tmp_path: Path) -> None:
    request = asked("one two", max_tokens=32_000, thinking={"budget_tokens": 1_000})
    planned = await estimate(tmp_path, request, Messages())

    assert (planned.output_tokens, planned.output_limit) == (USUAL_OUTPUT_TOKENS, 32_000)
    assert (planned.least_output, planned.least_tokens) == (1_016, 1_018)
    request["context_management"] = {}
    assert (await estimate(tmp_path, request, Messages())).least_tokens == 1_016


def test_texts_of_all_scripts_are_thought_longer_than_they_are() -> None:
    assert tokens_of_bytes(len(b"The quick brown fox jumps over the lazy dog.")) >= 10
    assert tokens_of_bytes(len("素早い茶色の狐".encode())) >= 7
    assert tokens_of_bytes(0) == 0


def test_the_fewest_tokens_are_the_words_of_all_texts() -> None:
    parts = [{"type": "text", "text": "three words here"}, {"type": "image", "data": "a b"}]
    assert words_of("one two") == 2
    assert words_of([{"role": "user", "content": parts}, {"content": "four"}, 5, None]) == 4
