"""Whatever the Messages API sends to Claude Code is classified: each answer has one outcome."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.errors import ExecutionError, ProviderError
from celeriac.domain.executions.model import Completed, Parked
from tests.support.anthropic_scenes import SCENES
from tests.support.anthropic_server import AnthropicServer, Exchange
from tests.support.claude_jobs import MODEL, claude_job
from tests.support.run_context import RecordingContext
from tests.support.wire_answers import REFUSALS, Due, Row, Sent, body

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]

USAGE = {"input_tokens": 100, "output_tokens": 1}


def events(*given: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in given)


def start(usage: object = None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
    }
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    return {"type": "message_start", "message": {**message, "usage": usage or USAGE}}


def text(said: str) -> list[dict[str, Any]]:
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": said}
    return [
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
    ]


def end(reason: object, usage: object = None) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": 20} if usage is None else usage
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def stream(*given: dict[str, Any], dropped: bool = False, before: bytes = b"") -> Sent:
    kind = {"content-type": "text/event-stream"}
    return Sent(body=before + events(*given), headers=kind, dropped=dropped)


def answered(said: str, reason: object, usage: object = None, began: object = None) -> Sent:
    return stream(start(began), *text(said), *end(reason, usage))


def row(name: str, sent: Sent, **due: Any) -> Row:
    return Row(name=name, sent=sent, due=Due(**{"tokens": (100, 20, 0), **due}))


FINE = {"result": "AB", "finish": "end_turn"}
HALF = {"code": "provider_error", "words": "no end"}

ROWS = {
    each.name: each
    for each in (
        row(
            "a stop sequence", answered("AB", "stop_sequence"), result="AB", finish="stop_sequence"
        ),
        row("a pause", answered("Half", "pause_turn"), finish="pause_turn", **HALF),
        row("an unknown stop reason", answered("Half", "strange"), finish="strange", **HALF),
        row(
            "max_tokens",
            answered("Half", "max_tokens"),
            code="output_truncated",
            retryable=False,
            words="token limit",
            finish="max_tokens",
            requests=4,
        ),
        row(
            "the context window",
            answered("Half", "model_context_window_exceeded"),
            code="provider_refused",
            retryable=False,
            words="context window",
            finish="model_context_window_exceeded",
            requests=4,
        ),
        row(
            "nothing said",
            answered("", "end_turn"),
            code="output_invalid",
            words="nothing",
            finish="end_turn",
            requests=2,
        ),
        row(
            "input tokens that fall back to zero",
            answered(
                "AB",
                "end_turn",
                {"input_tokens": 0, "output_tokens": 20},
                {"input_tokens": 600, "output_tokens": 1},
            ),
            tokens=(600, 20, 0),
            **FINE,
        ),
        row(
            "cached tokens that fall back to zero",
            answered(
                "AB",
                "end_turn",
                {"cache_read_input_tokens": 0, "output_tokens": 20},
                {**USAGE, "cache_read_input_tokens": 50},
            ),
            tokens=(150, 20, 50),
            **FINE,
        ),
        row(
            "usage of null",
            answered("AB", "end_turn", {"input_tokens": None, "output_tokens": 20}),
            **FINE,
        ),
        row(
            "usage below zero",
            answered("AB", "end_turn", {"input_tokens": -5, "output_tokens": 20}),
            **FINE,
        ),
        row(
            "a ping and an empty event",
            stream(
                start(),
                *text("AB"),
                *end("end_turn"),
                before=b': hello\n\nevent: ping\ndata: {"type": "ping"}\n\n',
            ),
            **FINE,
        ),
        row(
            "an HTML page",
            body(b"<html>Gateway</html>", kind="text/html"),
            code="provider_error",
            finish="unfinished",
            tokens=(0, 0, 0),
            requests=0,
        ),
        row(
            "an empty body",
            Sent(),
            code="provider_error",
            finish="unfinished",
            tokens=(0, 0, 0),
            requests=0,
        ),
        *(
            each
            for each in REFUSALS
            if each.name
            in (
                "429 with a date",
                "429 with milliseconds",
                "503 with seconds",
                "529 with seconds",
                "500 with milliseconds",
            )
        ),
    )
}


def wire(exchange: Exchange) -> None:
    """Send the answer that the prompt names between bars."""
    sent = ROWS[exchange.received.between_bars].sent
    exchange.verbatim(sent.status, sent.now(), sent.body, dropped=sent.dropped)


@pytest.fixture(scope="session")
def scripted_anthropic() -> Iterator[AnthropicServer]:
    with AnthropicServer({**SCENES, "wire": wire}).running() as server:
        yield server


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_what_the_api_sends_has_one_outcome(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer, row: Row
) -> None:
    ended: Completed | Parked | ExecutionError
    try:
        ended = await runner.run(claude_job(f"[wire] |{row.name}|"), context)
    except ExecutionError as error:
        ended = error

    if row.due.code is None:
        assert ended == Completed(row.due.result)
    else:
        assert isinstance(ended, ExecutionError), f"half an answer is none: {ended}"
        assert (ended.code, ended.retryable) == (row.due.code, row.due.retryable), ended
        assert row.due.words in ended.message
    if row.due.wait is not None:
        assert isinstance(ended, ProviderError)
        assert ended.retry_after is not None
        assert row.due.wait - 5 <= ended.retry_after <= row.due.wait
    if row.due.requests:
        assert len(anthropic.received) == row.due.requests
    refused = f"http_{row.sent.status}" if row.sent.status != 200 else None
    assert {call.finish_reason for call in context.calls} == {refused or row.due.finish}
    if refused is None:
        for call in context.calls:
            measured = (call.input_tokens, call.output_tokens, call.cached_tokens)
            assert measured == row.due.tokens
