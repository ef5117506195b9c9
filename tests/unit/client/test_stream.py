"""What the client makes of a stream of Server-Sent Events."""

from collections.abc import Sequence
from uuid import UUID

import httpx

from celeriac.client import Client, Delta
from celeriac.wire import Event

EXECUTION = UUID("0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11")


def _numbered(seq: int, kind: str) -> str:
    data = f'{{"seq":{seq},"type":"{kind}","at":"2026-11-22T12:00:00Z","attempt":1,"data":{{}}}}'
    return f"id: {seq}\r\nevent: {kind}\r\ndata: {data}\r\n\r\n"


_PING = ": ping - 2026-11-22 12:00:00\r\n\r\n"
_DELTA = 'event: delta\r\ndata: {"text":"Hel"}\r\n\r\n'


def _followed(*answers: Sequence[str]) -> tuple[list[Event | Delta], list[str]]:
    """Follow an execution over `answers`, one a connection; return what came, and where from."""
    left = list(answers)
    begun: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        begun.append(request.headers["Last-Event-ID"])
        text = "".join(left.pop(0))
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    transport = httpx.MockTransport(answer)
    with Client("http://api", api_key="k", transport=transport) as client:
        return list(client.executions.stream(EXECUTION)), begun


def test_signs_of_life_and_deltas_between_numbered_events() -> None:
    heard, _ = _followed(
        [_PING, _numbered(1, "started"), _PING, _DELTA, _PING, _numbered(2, "completed")]
    )
    assert [type(each) for each in heard] == [Event, Delta, Event]
    assert heard[1] == Delta({"text": "Hel"})


def test_a_broken_stream_is_taken_up_behind_the_last_numbered_event() -> None:
    heard, begun = _followed(
        [_numbered(1, "created"), _numbered(2, "queued"), _DELTA], [_numbered(3, "completed")]
    )
    assert [each.seq for each in heard if isinstance(each, Event)] == [1, 2, 3]
    assert begun == ["0", "2"]


def test_a_server_that_is_away_is_told_of_once_and_so_is_its_return() -> None:
    answers: list[str | Exception | int] = [
        _numbered(1, "created"),
        httpx.ConnectError("refused"),
        503,
        httpx.ConnectError("refused"),
        _numbered(2, "completed"),
    ]
    told: list[bool] = []

    def answer(_: httpx.Request) -> httpx.Response:
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, int):
            return httpx.Response(given)
        return httpx.Response(200, text=given, headers={"Content-Type": "text/event-stream"})

    with Client("http://api", api_key="k", transport=httpx.MockTransport(answer)) as client:
        heard = list(client.executions.stream(EXECUTION, on_away=told.append))
    assert [each.seq for each in heard if isinstance(each, Event)] == [1, 2]
    assert told == [True, False]
