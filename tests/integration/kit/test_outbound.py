"""The guarded client against a real server on loopback."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from celeriac.kit.outbound import (
    AnswerTooLargeError,
    OutboundGuard,
    OutboundRefusedError,
    guarded_client,
)
from tests.support.http_server import serving

HERE = OutboundGuard(hosts=frozenset({"127.0.0.1"}))


def _app() -> Starlette:
    async def text(request: Request) -> Response:
        return PlainTextResponse("x" * int(request.query_params["length"]))

    async def away(request: Request) -> Response:
        return RedirectResponse(request.query_params["to"])

    async def packed(_: Request) -> Response:
        return Response(b"", headers={"content-encoding": "gzip"})

    return Starlette(
        routes=[Route("/text", text), Route("/away", away), Route("/packed", packed)],
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(_app()) as url:
        yield url


def _get(url: str, *, guard: OutboundGuard = HERE) -> httpx2.Response:
    async def get() -> httpx2.Response:
        async with guarded_client(
            guard, timeout_seconds=10, max_bytes=1_000, follow_redirects=True
        ) as client:
            return await client.get(url)

    return asyncio.run(get())


def test_an_allowed_address_answers(address: str) -> None:
    assert _get(f"{address}/text?length=1000").text == "x" * 1000


def test_a_server_of_this_machine_is_refused_unless_allowed(address: str) -> None:
    with pytest.raises(OutboundRefusedError):
        _get(f"{address}/text?length=1", guard=OutboundGuard())


def test_an_answer_is_read_up_to_its_cap(address: str) -> None:
    with pytest.raises(AnswerTooLargeError, match="1,000 bytes"):
        _get(f"{address}/text?length=1001")


def test_a_compressed_answer_is_refused(address: str) -> None:
    with pytest.raises(httpx2.DecodingError):
        _get(f"{address}/packed")


def test_a_redirect_is_checked_like_the_first_address(address: str) -> None:
    port = urlsplit(address).port

    with pytest.raises(OutboundRefusedError):
        _get(f"{address}/away?to=http://localhost:{port}/text?length=1")

    assert _get(f"{address}/away?to={address}/text?length=1").text == "x"
