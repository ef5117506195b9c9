"""Calls to model servers.

Which models a local server has, listeners, and the HTTP client of a provider.

The client repeats requests that failed temporarily and reads every answer.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import httpx2

from celeriac.agents.gateway.streams import AnswerStream
from celeriac.agents.gateway.waiting import LONGEST_PAUSE, wait_of
from celeriac.agents.models import LOCAL, ModelRef, Provider
from celeriac.domain.errors import AgentMisconfiguredError

_SECONDS = 5.0
_DEFAULT_TAG = ":latest"
_SHOWN = 10


class ServedModels:
    """Asks the local server for its models, once for each name that a process hasn't met."""

    def __init__(self) -> None:
        self._served: dict[str, frozenset[str]] = {}

    async def check(self, choice: ModelRef) -> None:
        """Accept a model, or raise AgentMisconfiguredError where the local server hasn't it.

        Other providers refuse unknown names themselves. A server that doesn't tell what it has is
        taken at its word.
        """
        address = choice.provider.base_url
        if choice.provider.name != LOCAL or choice.model in self._served.get(address, ()):
            return
        names = await _asked(choice.provider)
        if not names:
            return
        self._served[address] = names
        if choice.model not in names:
            known = ", ".join(f"{LOCAL}/{name}" for name in sorted(names)[:_SHOWN])
            raise AgentMisconfiguredError(
                f"The agent's model is {str(choice)!r}, which the local model server doesn't "
                f"serve. It serves {known}.",
                field="model",
            )


async def _asked(provider: Provider) -> frozenset[str]:
    """Return the names that a server gives; none where it can't be asked."""
    headers = {"authorization": f"Bearer {provider.api_key}"} if provider.api_key else {}
    try:
        async with httpx2.AsyncClient(
            timeout=_SECONDS, trust_env=not provider.on_loopback
        ) as client:
            response = await client.get(f"{provider.base_url.rstrip('/')}/models", headers=headers)
            return _names(response.json()) if response.is_success else frozenset()
    except (httpx2.HTTPError, ValueError):
        return frozenset()


def _names(body: Any) -> frozenset[str]:
    """Return the ids of a list of models, and their aliases."""
    listed = body.get("data") if isinstance(body, Mapping) else None
    names: set[str] = set()
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("id"), str):
            names |= {each["id"], each["id"].removesuffix(_DEFAULT_TAG)}
            aliases = each.get("aliases")
            names.update(a for a in aliases or () if isinstance(a, str))
    return frozenset(names)


class Listener(Protocol):
    """Told of a run's requests to its model."""

    def asked(self) -> None:
        """The model was asked."""

    def heard(self) -> None:
        """A piece of its answer came."""

    def rest(self) -> None:
        """Nothing is due: the client waits before it asks again."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def listener() -> Listener | None:
    """Return who listens to the requests of this task, if anybody does."""
    return _listener.get()


@contextmanager
def listening(who: Listener) -> Iterator[None]:
    """Tell `who` of the requests that the block makes, in tasks that it starts too."""
    token = _listener.set(who)
    try:
        yield
    finally:
        _listener.reset(token)


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
    should_retry = response.headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        return should_retry == "true"
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
