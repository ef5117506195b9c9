"""The HTTP client of one provider: repeats what failed in passing, and reads every answer."""

import asyncio
import random
from typing import Any

import httpx2

from celeriac.agents.gateway.listening import listener
from celeriac.agents.gateway.stream import AnswerStream
from celeriac.agents.gateway.waiting import LONGEST_PAUSE, wait_of

MAX_RETRIES = 2
"""How often a request is repeated that failed in passing, with short pauses."""

_FIRST_PAUSE = 0.5
_ERRORS = 400
_SERVER_ERRORS = 500
_PASSING = frozenset({408, 409, 429})
_NO_CREDIT = b"insufficient_quota"
_COMPLETIONS = "/chat/completions"


class ChatClient(httpx2.AsyncClient):
    """Sends requests for chat completions, each at most `1 + MAX_RETRIES` times.

    A refusal that asks for more than `LONGEST_PAUSE` seconds is handed back at once, its wait in
    the header `retry-after-ms`, whatever form the provider gave it. Answers are read by
    `AnswerStream`. No other client on top of this one may repeat requests.
    """

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; see `httpx2.AsyncClient.send`."""
        for tries in range(MAX_RETRIES + 1):
            last = tries == MAX_RETRIES
            pause = _backoff(tries)
            try:
                response = await super().send(request, stream=stream, **options)
            except httpx2.TransportError:
                if last:
                    raise
            else:
                if response.status_code < _ERRORS:
                    return _read(request, response) if stream else response
                wait = await _refused(response)
                again = _may_pass(response) and (wait is None or wait <= LONGEST_PAUSE)
                if last or not again:
                    return response
                pause = pause if wait is None else wait
            await _rest(pause)
        raise AssertionError("the last try returns or raises")


async def _refused(response: httpx2.Response) -> float | None:
    """Read a refusal; return the wait that it asks for, now in one header."""
    body = await response.aread()
    wait = wait_of(response.headers, body)
    if wait is not None:
        response.headers["retry-after-ms"] = str(round(wait * 1000))
    return wait


def _may_pass(response: httpx2.Response) -> bool:
    wish = response.headers.get("x-should-retry")
    if wish in ("true", "false"):
        return wish == "true"
    if _NO_CREDIT in response.content:
        return False
    return response.status_code >= _SERVER_ERRORS or response.status_code in _PASSING


def _read(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    if not request.url.path.endswith(_COMPLETIONS):
        return response
    who = listener()
    return httpx2.Response(
        response.status_code,
        headers={"content-type": "text/event-stream"},
        stream=AnswerStream(response, who.heard if who else _nobody),
        request=request,
        extensions=response.extensions,
    )


async def _rest(seconds: float) -> None:
    who = listener()
    if who:
        who.rest()
    await asyncio.sleep(seconds)
    if who:
        who.asked()


def _backoff(tries: int) -> float:
    return float(_FIRST_PAUSE * 2**tries * random.uniform(0.75, 1))


def _nobody() -> None:
    """Tell nobody."""
