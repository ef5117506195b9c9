"""What is read of an answer of the Messages API as its bytes pass."""

import json
from collections.abc import Mapping

import pytest

from celeriac.agents.gateway.anthropic import MessageAnswer
from celeriac.agents.models import Tokens

pytestmark = pytest.mark.requirement("A12")

START = {
    "type": "message_start",
    "message": {
        "model": "claude-test",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 1000,
            "output_tokens": 1,
        },
    },
}
CALL = {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "toolu_1"}}
TEXT = {"type": "content_block_delta", "delta": {"text": '"message_delta"'}}
END = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}}


def stream(*events: Mapping[str, object]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_is_read_however_it_is_cut(size: int) -> None:
    body, reading = stream(START, TEXT, CALL, END), MessageAnswer()
    for begin in range(0, len(body), size):
        reading.feed(body[begin : begin + size])

    assert reading.model == "claude-test"
    assert reading.finish_reason == "tool_use"
    assert reading.tool_calls == ["toolu_1"]
    assert reading.tokens == Tokens(input=1110, output=7, cached=100, cache_written=1000)


def test_a_stream_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    reading = MessageAnswer()
    reading.feed(stream(START) + b'data: {"type": "message_delta", "del')

    assert reading.measured
    assert reading.finish_reason is None
    assert reading.tokens.output == 1


def test_an_answer_in_one_piece_is_read() -> None:
    reading = MessageAnswer()
    content = [{"type": "text", "text": "…"}, {"type": "tool_use", "id": "toolu_2"}]
    usage = {"input_tokens": 3, "output_tokens": 4}
    reading.take(
        json.dumps({"model": "m", "content": content, "usage": usage, "stop_reason": "x"}).encode()
    )

    assert (reading.model, reading.finish_reason, reading.tool_calls) == ("m", "x", ["toolu_2"])
    assert reading.tokens == Tokens(input=3, output=4)


@pytest.mark.parametrize(
    "body",
    [b"\xff\x00", b"[]", b'{"usage": 5, "content": "x"}', b'{"usage": {"input_tokens": -1}}'],
)
def test_nonsense_is_passed_over(body: bytes) -> None:
    reading = MessageAnswer()
    reading.take(body)
    reading.feed(b"data: " + body + b'"message_start"\n')
    reading.feed(b'data: {"type": "message_start", "message": ' + body[:1] + b"\n")

    assert reading.tokens == Tokens(input=0, output=0)
    assert not reading.measured
