"""The model gateway of one attempt, for programs: an HTTP server on the loopback.

A program gets its address and a key that is valid for this attempt alone. The providers' keys
stay in the worker.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote

import httpx2

from celeriac.agents.gateway.anthropic import Messages, error_body
from celeriac.agents.gateway.calls import ModelCalls, WireFormat, calling, object_of
from celeriac.agents.gateway.client import FAILURE, ModelClient
from celeriac.agents.gateway.completions import AnswerError
from celeriac.agents.gateway.errors import (
    CallFailure,
    FailureSource,
    error_of,
    failure_of_exception,
)
from celeriac.agents.gateway.headers import without_hop_headers
from celeriac.agents.gateway.http_server import (
    Handler,
    HttpRequest,
    LoopbackServer,
    ResponseWriter,
)
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.gateway.recording import Traffic
from celeriac.agents.gateway.waiting import LONGEST_PAUSE
from celeriac.agents.models import AnthropicEndpoint, ModelRef, Prices, Provider
from celeriac.domain.errors import CeleriacError
from celeriac.domain.executions.model import MustWaitError
from celeriac.kit.sandbox import LoopbackPort
from celeriac.services.ports import RunContext

NO_RETRY = ("x-should-retry", "false")
"""Tells clients of both APIs not to repeat a request."""

_TIMES = httpx2.Timeout(None, connect=10.0)
"""The attempt's limits and the program's own time-out end a silent call."""

_KEYS = frozenset({"x-api-key", "authorization"})
_JSON = ("content-type", "application/json")
_BAD_GATEWAY = 502


@dataclass(frozen=True, slots=True)
class Route:
    """A provider that the program reaches, and what its errors are called."""

    provider: Provider
    wire: WireFormat
    explains: bool = True
    """Whether refusals are replaced by our errors; otherwise they are passed on unchanged."""


class AttemptGateway:
    """Serves one attempt; made by `serving`."""

    def __init__(
        self,
        calls: ModelCalls,
        traffic: Traffic,
        routes: Iterable[Route],
        handlers: Mapping[str, Handler],
    ) -> None:
        self.key = secrets.token_urlsafe(32)
        self.calls = calls
        self._traffic = traffic
        self._handlers = handlers
        self._routes = {quote(route.provider.name, safe=""): route for route in routes}
        self._clients: dict[str, ModelClient] = {}
        self._server = LoopbackServer(self._answer)

    @property
    def address(self) -> str:
        """The server's address, without a path."""
        return f"http://127.0.0.1:{self._server.port}"

    def base_url(self, provider: str) -> str:
        """Return the base URL at which the program reaches `provider`."""
        return f"{self.address}/{quote(provider, safe='')}"

    @property
    def port(self) -> LoopbackPort | None:
        """The port for a child with a loopback of its own; None if nothing is served."""
        if not self._routes and not self._handlers:
            return None
        return LoopbackPort(self._server.port, self._server.serve_also)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that give a program the address and the key, if any."""
        if not self._routes:
            return {}
        return {"CELERIAC_MODEL_URL": self.address, "CELERIAC_MODEL_KEY": self.key}

    @classmethod
    @asynccontextmanager
    async def serving(
        cls,
        calls: ModelCalls,
        traffic: Traffic,
        routes: Iterable[Route],
        handlers: Mapping[str, Handler] | None = None,
    ) -> AsyncIterator[Self]:
        """Serve while the block runs; calls that are under way at its end are cut off.

        Requests to the providers of `routes` go over `traffic`, those to the paths of `handlers`
        to these. Raises after the block what the attempt's context raised for a call.
        """
        gateway = cls(calls, traffic, routes, handlers or {})
        async with AsyncExitStack() as stack:
            stack.push_async_callback(gateway._close_clients)
            if gateway._routes or gateway._handlers:
                await stack.enter_async_context(gateway._server)
            yield gateway
        if calls.stopped is not None:
            raise calls.stopped  # as by the charge of the last call

    def _client(self, name: str) -> ModelClient:
        """Return the client of a route, made for its first request: that takes milliseconds."""
        client = self._clients.get(name)
        if client is None:
            route = self._routes[name]
            client = self._clients[name] = ModelClient(
                route.provider,
                route.wire,
                timeout=_TIMES,
                transport=self._traffic.transport(route.provider),
                follow_redirects=route.wire.follows_redirects,
            )
        return client

    async def _close_clients(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _answer(self, incoming: HttpRequest, answer: ResponseWriter) -> None:
        path, _, query = incoming.target.partition("?")
        name, _, rest = path.removeprefix("/").partition("/")
        route = self._routes.get(name)
        if not self._is_authorized(incoming):
            await _refuse(answer, 401, "authentication_error", "This key is not valid here.")
        elif path in self._handlers:
            await self._handlers[path](incoming, answer)
        elif route is None or incoming.method != "POST" or not _passes(route, f"/{rest}"):
            await _refuse(answer, 404, "not_found_error", "Only model calls pass here.")
        else:
            target = f"/{rest}?{query}" if query else f"/{rest}"
            try:
                with calling(self.calls):
                    await self._forward(incoming, route, self._client(name), target, answer)
            except ConnectionError:
                raise  # the program is gone
            except Exception as error:  # noqa: BLE001 - raised by the attempt
                self.calls.stop(error)

    def _is_authorized(self, incoming: HttpRequest) -> bool:
        given = incoming.header("x-api-key") or incoming.header("authorization")
        return secrets.compare_digest(given.removeprefix("Bearer ").encode(), self.key.encode())

    async def _forward(
        self,
        incoming: HttpRequest,
        route: Route,
        client: ModelClient,
        target: str,
        answer: ResponseWriter,
    ) -> None:
        started = False
        try:
            async with client.stream(
                incoming.method,
                route.provider.base_url.rstrip("/") + target,
                headers=_sent_headers(incoming, route),
                content=incoming.body,
            ) as response:
                if response.is_error:
                    await _pass_refusal(incoming, route, response, answer)
                    return
                head = response.status_code, _returned_headers(response)
                async for piece in response.aiter_bytes():
                    if not started:
                        started = True
                        await answer.begin(*head)
                    await answer.piece(piece)
                if not started:
                    await answer.begin(*head)
                await answer.end()
        except (CeleriacError, MustWaitError) as error:
            if started:
                raise
            await _refuse(answer, 403, "permission_error", str(error))
        except (AnswerError, httpx2.HTTPError) as error:
            failure = failure_of_exception(error, key=route.provider.api_key)
            failed = error_of(failure, _source(incoming, route))
            if started:
                await answer.piece(route.wire.stream_error(failed))
                await answer.end()
            else:
                status = failure.status or _BAD_GATEWAY
                await answer.respond(status, [_JSON], route.wire.error_body(failed))


async def _pass_refusal(
    incoming: HttpRequest, route: Route, response: httpx2.Response, answer: ResponseWriter
) -> None:
    body = await response.aread()
    headers = dict(_returned_headers(response))
    failure = response.extensions.get(FAILURE)
    if isinstance(failure, CallFailure):
        if (failure.retry_after or 0.0) > LONGEST_PAUSE:
            # the attempt ends, and its slot is free for another
            headers[NO_RETRY[0]] = NO_RETRY[1]
        if route.explains:
            body = route.wire.error_body(error_of(failure, _source(incoming, route)))
            headers[_JSON[0]] = _JSON[1]
    await answer.respond(response.status_code, list(headers.items()), body)


async def _refuse(answer: ResponseWriter, status: int, kind: str, message: str) -> None:
    """Refuse a request for good, in the form of both APIs."""
    await answer.respond(status, [_JSON, NO_RETRY], error_body(kind, message))


def _passes(route: Route, path: str) -> bool:
    return path in route.wire.call_paths or path in route.wire.free_paths


def _source(incoming: HttpRequest, route: Route) -> FailureSource:
    model = route.wire.size_of(object_of(incoming.body)).model
    return FailureSource(ModelRef(route.provider, model))


def _sent_headers(incoming: HttpRequest, route: Route) -> list[tuple[str, str]]:
    """Return the headers to send: not those of this connection, and the provider's own key."""
    passed = without_hop_headers(incoming.headers).items()
    headers = [(name, value) for name, value in passed if name not in _KEYS]
    key = route.provider.api_key
    return headers if key is None else [*headers, route.wire.key_header(key)]


def _returned_headers(response: httpx2.Response) -> list[tuple[str, str]]:
    return list(without_hop_headers(response.headers.items()).items())


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """The models that programs and functions in child processes may call."""

    providers: Sequence[Provider] = ()
    """Those with OpenAI's API."""
    anthropic: AnthropicEndpoint | None = None
    prices: Prices = field(default_factory=Prices)

    @asynccontextmanager
    async def serving(self, context: RunContext) -> AsyncIterator[AttemptGateway]:
        """Serve the models to one attempt's child while the block runs."""
        routes = [Route(each, ChatCompletions(each)) for each in self.providers]
        if self.anthropic is not None:
            routes.append(Route(self.anthropic.provider, Messages(), explains=False))
        calls = ModelCalls(context, self.prices)
        async with AttemptGateway.serving(calls, Traffic(), routes) as gateway:
            yield gateway
