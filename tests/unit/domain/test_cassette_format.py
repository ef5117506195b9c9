"""The text of cassettes: what is kept, and how invalid text is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain import cassettes as cassette_format
from celeriac.domain.cassettes import (
    MAX_BYTES,
    Cassette,
    Header,
    Interaction,
    JsonEvent,
    Request,
    Response,
    dump,
    parse,
    read_body,
    write_body,
)
from celeriac.domain.errors import CassetteInvalidError, TooLargeError
from celeriac.domain.replay import joined
from tests.support.cassettes import cassette, recorded

HEADER = '{"celeriac_cassette":1}'
LINE = '{"provider":"test","request":{"method":"POST","path":"/x"},"response":{"status":200}}'


def test_a_cassette_is_read_as_it_was_written() -> None:
    told = cassette(
        recorded("One?", "1"),
        Interaction(
            provider="anthropic",
            attempt=2,
            request=Request(method="POST", path="/v1/messages?beta=true", text="not JSON"),
            response=Response(
                status=429,
                headers={"retry-after": "3"},
                broken=True,
                **read_body(b'event: ping\ndata: {"type":"ping"}\n\nhalf', "text/event-stream"),
            ),
        ),
    )
    assert parse(dump(told)) == told
    assert dump(parse(dump(told))) == dump(told)


def test_one_line_is_one_request_and_says_the_short_first() -> None:
    lines = dump(cassette(recorded("One?", "1"))).splitlines()
    assert len(lines) == 2
    assert list(json.loads(lines[1])["request"]) == ["method", "path", "body"]


@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/event-stream", ""]))
def test_any_body_comes_back_with_its_meaning(content: bytes, media: str) -> None:
    body = Response(status=200, **read_body(content, media))
    written = b"".join(write_body(body))
    if body.body is None:
        assert written == content
    else:
        assert json.loads(written) == json.loads(content)


def test_a_stream_comes_back_event_by_event() -> None:
    events = [
        b'event: message_start\ndata: {"type":"message_start"}\n\n',
        b": a comment\n\n",
        b'data: {"choices": [{"delta"\n\n',
        b"data: [DONE]\n\n",
        b"data: cut o",
    ]
    body = Response(status=200, **read_body(b"".join(events), "text/event-stream; charset=utf-8"))
    assert write_body(body) == events


def _streamed(*events: dict[str, Any]) -> list[JsonEvent | str]:
    return [JsonEvent(data=event) for event in events]


def test_pieces_of_one_text_are_joined() -> None:
    def piece(text: str, index: int = 0) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index,
                "delta": {"type": "text_delta", "text": text}}  # fmt: skip

    def chunk(**delta: Any) -> dict[str, Any]:
        return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    def call(arguments: str) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": 0, "function": {"arguments": arguments}}])

    assert joined(_streamed(piece("ha"), piece("ha"), piece("ho", 1))) == tuple(
        _streamed(piece("haha"), piece("ho", 1))
    )
    assert joined(
        _streamed(call('{"a'), call('": 1}'), chunk(content="so"), chunk(content="!"))
    ) == (tuple(_streamed(call('{"a": 1}'), chunk(content="so!"))))
    role = chunk(role="assistant", content="")
    assert joined(_streamed(role, chunk(content="x"))) == tuple(_streamed(role, chunk(content="x")))
    stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    assert joined([*_streamed(stop, stop), "data: [DONE]\n\n", "x", "x"]) == (
        *_streamed(stop, stop),
        *("data: [DONE]\n\n", "x", "x"),
    )


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", "line 1", "empty"),
        ("\n\n", "line 1", "empty"),
        ("hello", "line 1", "not valid JSON"),
        ("\x00\xff", "line 1", "not valid JSON"),
        ("[]", "line 1", "not a header"),
        ('{"celeriac_cassette":2}', "line 1", "celeriac_cassette"),
        ('{"celeriac_cassette":1,"key":"sk-1"}', "line 1", "key"),
        (LINE, "line 1", "not a header"),
        (f"{HEADER}\n{HEADER}", "line 2", "not an interaction"),
        (f"{HEADER}\n\n{LINE[:-1]}", "line 3", "not valid JSON"),
        (f"{HEADER}\n{LINE.replace('200', '99')}", "line 2", "response.status"),
        (f"{HEADER}\n{LINE.replace('200', '101')}", "line 2", "response.status"),
        (f"{HEADER}\n{LINE.replace('/x', 'http://evil/')}", "line 2", "request.path"),
        (f"{HEADER}\n{LINE.replace('POST', 'P OST')}", "line 2", "request.method"),
        (
            HEADER + "\n" + LINE.replace("200", '200,"headers":{"set-cookie":"a=b"}'),
            "line 2",
            "set-cookie",
        ),
        (
            HEADER + "\n" + LINE.replace("200", '200,"headers":{"content-type":"a\\r\\nb: c"}'),
            "line 2",
            "response.headers",
        ),
        (HEADER + "\n" + LINE.replace("200", '200,"text":"a","body":1'), "line 2", "only one of"),
        (HEADER + "\n" + LINE.replace("200", '200,"base64":"%%%"'), "line 2", "base64"),
        (
            HEADER + "\n" + LINE.replace("200", f'200,"body":{"[" * 200}{"]" * 200}'),
            "line 2",
            "100",
        ),
        (f"{HEADER}\n{'[' * 100_000}", "line 2", "not valid JSON"),
    ],
)
def test_what_is_no_cassette_is_refused_by_its_line(content: str, line: str, words: str) -> None:
    with pytest.raises(CassetteInvalidError) as refused:
        parse(content.encode("latin-1"))
    assert refused.value.field == line
    assert words in refused.value.message


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(CassetteInvalidError, match="not valid JSON"):
        parse(b"\xff\xfe\x00")


def test_too_much_is_refused() -> None:
    with pytest.raises(TooLargeError, match="shorter run"):
        parse(b" " * (MAX_BYTES + 1))
    with pytest.raises(TooLargeError, match="10000 lines"):
        parse(HEADER + "\n" + f"{LINE}\n" * 10_001)


def test_behind_a_gap_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    first, long, later = (recorded("a", said) for said in ("1", "2" * 2000, "3"))
    monkeypatch.setattr(cassette_format, "MAX_BYTES", 1000)
    cut = cassette(first).extended([long, later], complete=True)
    assert cut == cassette(first, complete=False)
    assert cut.extended([later], complete=True) == cut
    assert len(dump(cut)) <= 1000


def test_a_recording_that_lost_something_says_so() -> None:
    told = Cassette(Header(celeriac_cassette=1)).extended([recorded("a", "1")], complete=False)
    assert not told.header.complete
    assert len(told.interactions) == 1
