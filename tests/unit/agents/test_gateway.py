"""The parts of what is read of model providers: events, thoughts, waits."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from celeriac.agents.gateway.completions import AnswerError
from celeriac.agents.gateway.openai import InlineThinking, StreamedAnswer
from celeriac.agents.gateway.sse import (
    MAX_EVENT_BYTES,
    Event,
    EventReader,
    EventTooLongError,
)
from celeriac.agents.gateway.waiting import LONGEST_WAIT, wait_of

NOW = 1_700_000_000.0
STREAM = (
    b"\xef\xbb\xbfretry: 3000\r\n\r\n: ping\r\rdata: a\ndata:b\n\nid: 1\nevent: ping\n\n"
    b"event: error\r\ndata: c\xff\r\n\r\ndata\n\ndata: \xe2\x80\xa8d"
)


def events(body: bytes, size: int) -> list[tuple[str, str]]:
    reader = EventReader()
    found: list[Event] = []
    for begin in range(0, len(body), size):
        found += reader.feed(body[begin : begin + size])
    found += reader.end()
    return [(event.name, event.data) for event in found]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    assert events(STREAM, size) == [("", "a\nb"), ("error", "c\ufffd"), ("", "\u2028d")]


def test_an_event_without_end_is_refused() -> None:
    reader = EventReader()
    for _ in range(MAX_EVENT_BYTES // 1_000_000):
        assert not list(reader.feed(b"x" * 1_000_000))

    with pytest.raises(EventTooLongError):
        list(reader.feed(b"x" * 1_000_000))


def test_an_event_that_ends_anyhow_is_read_to_its_end() -> None:
    reader = EventReader()

    assert not list(reader.feed(b"data: " + "é€".encode()[:-1]))
    assert list(reader.end()) == [Event("é\ufffd")]


def test_the_limit_is_that_of_one_event() -> None:
    reader, event = EventReader(), b"data: " + b"x" * 1_000_000 + b"\n\n"

    for _ in range(2 * MAX_EVENT_BYTES // len(event)):
        assert len(list(reader.feed(event))) == 1


def test_an_answer_with_an_event_without_end_cannot_be_used() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'data: {"x": "'
        for _ in range(1 + MAX_EVENT_BYTES // 1_000_000):
            yield b"x" * 1_000_000

    async def read() -> list[bytes]:
        answer = StreamedAnswer(httpx2.Response(200, content=body()), lambda: None)
        return [piece async for piece in answer.pieces()]

    with pytest.raises(AnswerError, match="an event that is too long"):
        asyncio.run(read())


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("\n<think>a < b</thin</think>\n\nHello <think>.", "a < b</thin", "Hello <think>."),
        ("<thin", "", "<thin"),
        ("<think>never", "never", ""),
        ("<think></think>x", "", "x"),
        ("  plain </think> text", "", "  plain </think> text"),
        ("<think>", "", ""),
        ("<thinking>is another tag</thinking>", "", "<thinking>is another tag</thinking>"),
    ],
)
def test_thoughts_are_told_from_text_however_they_are_cut(
    text: str, thought: str, said: str, size: int
) -> None:
    thinking = InlineThinking()
    pieces = [
        piece
        for begin in range(0, len(text), size)
        for piece in thinking.feed(text[begin : begin + size])
    ]
    pieces += thinking.end()

    assert "".join(piece for kind, piece in pieces if kind == "reasoning_content") == thought
    assert "".join(piece for kind, piece in pieces if kind == "content") == said
    assert all(piece not in ("<think>", "</think>") for kind, piece in pieces if kind == "content")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "30"}, 30),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, LONGEST_WAIT),
        ({"retry-after": "1e999"}, LONGEST_WAIT),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-reset": "1700000030"}, 30),
        ({"x-ratelimit-reset": "1700000030000"}, 30),
        ({"x-ratelimit-reset": "2023-11-14T22:13:50Z"}, 30),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1h1m1.5s"}, 3661.5),
        ({"x-ratelimit-reset-requests": "never"}, None),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "9s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, 9),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "30"}, 30),
    ],
)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_of(headers, now=NOW) == (seconds if seconds is None else pytest.approx(seconds))


def test_the_delay_in_a_body_is_the_last_resort() -> None:
    body = b'[{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "30s"}]}}]'

    assert wait_of({}, body, now=NOW) == 30
    assert wait_of({"retry-after": "2"}, body, now=NOW) == 2
    assert wait_of({}, b'{"retryDelay": 7}', now=NOW) is None
    assert wait_of({}, b'{"retryDelay": ', now=NOW) is None
