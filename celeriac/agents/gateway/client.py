"""The HTTP client of model providers: each call passes `calls`, some are repeated."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from celeriac.agents.gateway.calls import Call, ModelCalls, WireFormat, current_calls
from celeriac.agents.gateway.waiting import LONGEST_PAUSE
from celeriac.agents.models import Provider

MAX_RETRIES = 2
"""How often a request is repeated that failed temporarily, with short pauses."""

FAILURE = "celeriac.failure"
"""The extension of a refused response that holds its CallFailure."""

_FIRST_PAUSE = 0.5
_ERRORS = 400


class ModelClient(httpx2.AsyncClient):
    """Sends the calls of one provider, those that `current_calls` of the task returns.

    A request that failed temporarily is sent again, `retries` times at most. A refusal that asks
    for more than `LONGEST_PAUSE` seconds is returned at once, its wait in the header
    `retry-after-ms`. No other client on top of this one may repeat requests.

    What the attempt's context raises is raised here too. SDKs catch that: `ModelCalls.stopped`
    has it.
    """

    def __init__(
        self, provider: Provider, wire: WireFormat, *, retries: int = 0, **options: Any
    ) -> None:
        """Send requests as `httpx2.AsyncClient` with `options` does.

        The proxies of the environment are not used for this machine's own servers.
        """
        super().__init__(trust_env=not provider.on_loopback, **options)
        self._provider = provider
        self._wire = wire
        self._retries = retries

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; see `httpx2.AsyncClient.send`."""
        if not request.url.path.endswith(self._wire.call_paths):
            return await super().send(request, stream=stream, **options)
        calls = current_calls()
        call = await calls.begin(self._provider, self._wire, await request.aread())
        try:
            response = await self._answered(_with_body(request, call.body), call, calls, options)
        except BaseException:
            await call.end()
            raise
        if response.is_error:
            await call.end()
        elif not stream:
            await response.aread()
        return response

    async def _answered(
        self, request: httpx2.Request, call: Call, calls: ModelCalls, options: dict[str, Any]
    ) -> httpx2.Response:
        for tries in range(self._retries + 1):
            last = tries == self._retries
            pause = _backoff(tries)
            try:
                response = await super().send(request, stream=True, **options)
            except httpx2.TransportError as error:
                call.failed(error)
                if last:
                    raise
            else:
                if response.status_code < _ERRORS:
                    return _passed(request, response, call)
                await response.aread()
                failure = call.refused(response)
                response.extensions[FAILURE] = failure
                wait = failure.retry_after
                if wait is not None:
                    response.headers["retry-after-ms"] = str(round(wait * 1000))
                again = _repeats(response, may_pass=failure.may_pass)
                if last or not again or (wait or 0.0) > LONGEST_PAUSE:
                    return response
                pause = pause if wait is None else wait
            await _rest(pause, calls)
        raise AssertionError("the last try returns or raises")


class _AnswerStream(httpx2.AsyncByteStream):
    """An answer as it passes; the call ends when it is closed."""

    def __init__(self, response: httpx2.Response, call: Call) -> None:
        self._response = response
        self._call = call
        self._pieces = call.passed()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the one iterator of the pieces."""
        return self._pieces

    async def aclose(self) -> None:
        """Close the response and end the call."""
        try:
            await self._response.aclose()
        finally:
            await self._call.end()


def _passed(request: httpx2.Request, response: httpx2.Response, call: Call) -> httpx2.Response:
    answer = call.answered(response)
    return httpx2.Response(
        response.status_code,
        headers=answer.headers,
        stream=_AnswerStream(response, call),
        request=request,
        extensions=response.extensions,
    )


def _with_body(request: httpx2.Request, body: bytes) -> httpx2.Request:
    if body == request.content:
        return request
    headers = [each for each in request.headers.raw if each[0].lower() != b"content-length"]
    return httpx2.Request(
        request.method, request.url, headers=headers, content=body, extensions=request.extensions
    )


def _repeats(response: httpx2.Response, *, may_pass: bool) -> bool:
    """Whether a refused request is sent again; the provider may decide that itself."""
    should_retry = response.headers.get("x-should-retry")
    return should_retry == "true" if should_retry in ("true", "false") else may_pass


async def _rest(seconds: float, calls: ModelCalls) -> None:
    calls.watch.rest()
    await asyncio.sleep(seconds)
    calls.watch.asked()


def _backoff(tries: int) -> float:
    return float(_FIRST_PAUSE * 2**tries * random.uniform(0.75, 1))
