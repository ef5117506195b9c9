"""Calls of the Messages API: admitted, forwarded, metered, charged.

The door between Claude Code and the Messages API: one per attempt, on the loopback.

Claude Code gets this address and a key that is good for nothing else and ends with the attempt;
the real key stays here, out of the reach of its tools. Every call passes one by one: leave is
asked for it, its tokens are read off the wire, its cost is charged, a refusal is kept word by word.
So nothing rests on the SDK's running totals, nor on the prices that it makes up.

What passes on of a request and its answer, and refusals in the Messages API's own words.

Anthropic's Messages API, or a gateway that speaks it: where it is, and its key.

MCP servers over HTTP, reached for Claude Code: only where the guard lets requests go.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Self
from urllib.parse import urlsplit

import httpx2

from celeriac.agents.base import emit_clipped
from celeriac.agents.claude.metering import UsageReader
from celeriac.agents.gateway.waiting import LONGEST_PAUSE, wait_of
from celeriac.agents.mcp.servers import HttpServer, ResolvedServer
from celeriac.agents.models import ModelRef, Prices, Provider, Tokens
from celeriac.agents.recording.server import HttpRequest, LoopbackServer, ResponseWriter
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import AgentMisconfiguredError, CeleriacError, ConfigurationError
from celeriac.domain.executions.model import MustWaitError
from celeriac.domain.usage import MAX_COUNT, CallEstimate, Clip, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads
from celeriac.kit.loop import run_shielded
from celeriac.kit.outbound import guarded_client
from celeriac.services.ports import RunContext

Headers = Sequence[tuple[str, str]]

NO_RETRY = ("x-should-retry", "false")
"""What tells Claude Code, as any client of the Messages API, that trying again won't help."""

_OWN_TO_A_HOP = frozenset(
    """accept-encoding connection content-encoding content-length expect host keep-alive
    proxy-authenticate proxy-connection te trailer transfer-encoding upgrade""".split()
)
_KEYS = frozenset({"x-api-key", "authorization"})
_JSON = ("content-type", "application/json")


def forwarded_headers(incoming: HttpRequest) -> list[tuple[str, str]]:
    """Return the headers that go on: not those of this connection, nor the keys."""
    return [
        (name, value)
        for name, value in incoming.headers
        if name not in _OWN_TO_A_HOP and name not in _KEYS
    ]


def returned_headers(response: httpx2.Response) -> list[tuple[str, str]]:
    """Return the headers of an answer that go back; its body is passed on decoded."""
    return [
        (name, value)
        for name, value in response.headers.multi_items()
        if name.lower() not in _OWN_TO_A_HOP
    ]


async def respond(answer: ResponseWriter, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    await answer.begin(status, headers)
    await answer.piece(body)
    await answer.end()


async def refuse(
    answer: ResponseWriter, status: int, kind: str, message: str, *, final: bool = True
) -> None:
    """Answer with an error; a `final` one says that trying again won't help."""
    headers = [_JSON, NO_RETRY] if final else [_JSON]
    await respond(answer, status, headers, error_body(kind, message))


def error_body(kind: str, message: str) -> bytes:
    """Return an error as the Messages API writes it."""
    return dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


ANTHROPIC = "anthropic"
"""The provider's name in usage, prices and limits."""

_OWN_HOST = "api.anthropic.com"


@dataclass(frozen=True, slots=True)
class AnthropicEndpoint:
    """The Messages API: where it is, and its key."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that can't be one."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(
                f"ANTHROPIC_BASE_URL is {self.base_url!r}; it must be an address like "
                "https://api.anthropic.com."
            )

    def check(self) -> None:
        """Raises AgentMisconfiguredError where a key is needed and there is none."""
        if self.api_key is None and urlsplit(self.base_url).hostname == _OWN_HOST:
            raise AgentMisconfiguredError(
                "ANTHROPIC_API_KEY is not set. Set it for the workers and restart them.",
                field="runner",
            )

    def choice(self, model: str) -> ModelRef:
        """Return a model of it, as prices know models."""
        return ModelRef(Provider(name=ANTHROPIC, base_url=self.base_url), model)

    def without_key(self, text: str) -> str:
        """Return `text` without the key, which some servers repeat."""
        return text.replace(self.api_key, "***") if self.api_key else text


MESSAGES_PATH = "/v1/messages"

_BYTES_PER_TOKEN = 3
"""A cautious guess for what is about to be sent; the bill is measured, not guessed."""

_LIKELY_OUTPUT = 4_096
"""Tokens that an answer is thought to need at most."""

CUT_OFF = "max_tokens"
"""The stop reason of an answer that its limit has cut off."""

_UNFINISHED = "unfinished"
_ERRORS = 400
SLOW_DOWN = 429
"""The status of a provider that asks to slow down."""

_KEPT_ERROR = 100_000


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call failed; without a status there was no whole answer."""

    status: int | None
    message: str
    retry_after: float | None = None


class MessagesProxy:
    """The calls of one attempt; belongs to its event loop.

    Requests go to `address`. Whatever goes wrong here, refusals of the context above all, goes to
    `on_stop`, and Claude Code is told no.
    """

    def __init__(
        self,
        upstream: AnthropicEndpoint,
        client: httpx2.AsyncClient,
        *,
        address: str,
        prices: Prices,
        context: RunContext,
        on_stop: Callable[[Exception], None],
    ) -> None:
        self.failure: CallFailure | None = None
        """Why the newest call failed, if it did."""
        self.stop_reason: str | None = None
        """How the newest answer ended."""
        self._upstream = upstream
        self._client = client
        self._address = address.rstrip("/")
        self._prices = prices
        self._context = context
        self._on_stop = on_stop
        self._readings: list[UsageReader] = []

    async def alone(self, tool_call: str) -> bool:
        """Whether a tool call is the only one of its answer; waits until all of that is there."""
        for reading in self._readings:
            if tool_call in reading.tool_calls:
                await reading.ended.wait()
                return len(reading.tool_calls) == 1
        return True

    async def count(self, incoming: HttpRequest, query: str, answer: ResponseWriter) -> None:
        """Answer a request to count tokens, which costs nothing."""
        await self._forward(
            incoming, f"{MESSAGES_PATH}/count_tokens?{query}", answer, UsageReader()
        )

    async def message(self, incoming: HttpRequest, query: str, answer: ResponseWriter) -> None:
        """Answer a request for a message; ended, and charged, by cancelling it."""
        try:
            await self._message(incoming, f"{MESSAGES_PATH}?{query}", answer)
        except ConnectionError:
            raise  # Claude Code has gone
        except Exception as error:  # noqa: BLE001 - raised by the attempt
            self._on_stop(error)

    async def _message(self, incoming: HttpRequest, target: str, answer: ResponseWriter) -> None:
        planned = self._plan(incoming)
        try:
            ticket = await self._context.admit(planned)
        except (CeleriacError, MustWaitError) as error:
            self._on_stop(error)
            await refuse(answer, 403, "permission_error", str(error))
            return
        clip = None if ticket is None else ticket.clip
        if clip is not None:
            incoming = _clipped(incoming, clip)
        reading, began, status = UsageReader(), time.monotonic(), None
        self._readings.append(reading)
        try:
            status = await self._forward(incoming, target, answer, reading)
        finally:
            reading.ended.set()
            await run_shielded(
                self._charge(reading, planned, ticket, _milliseconds_since(began), status)
            )
        if clip is not None and reading.stop_reason == CUT_OFF:
            await emit_clipped(self._context, clip)

    def _plan(self, incoming: HttpRequest) -> CallEstimate:
        """Say about the most that a call will use, from its size.

        Claude Code leaves room for answers of many thousand tokens that hardly any of them needs;
        to reserve it all would keep most of a budget idle.
        """
        request = _object(incoming.body)
        model, limit = request.get("model"), request.get("max_tokens")
        name = model if isinstance(model, str) and model else "unknown"
        tokens = Tokens(
            input=min(len(incoming.body) // _BYTES_PER_TOKEN + 1, MAX_COUNT),
            output=min(limit, _LIKELY_OUTPUT) if isinstance(limit, int) else _LIKELY_OUTPUT,
        )
        least, shortest = _least_input(request), _shortest_answer(request)
        if isinstance(limit, int):
            shortest = min(shortest, limit)

        def cost(used: Tokens) -> Decimal | None:
            return self._prices.cost(self._upstream.choice(name), used)

        return CallEstimate(
            ANTHROPIC,
            name,
            tokens.input,
            tokens.output,
            cost(tokens),
            input_cost=cost(Tokens(tokens.input, 0)),
            least_tokens=least + shortest,
            least_cost=cost(Tokens(least, shortest, cached=least)),
            least_output=shortest,
            output_limit=limit if isinstance(limit, int) else None,
        )

    async def _charge(
        self,
        reading: UsageReader,
        planned: CallEstimate,
        ticket: Reservation | None,
        latency_ms: int,
        status: int | None,
    ) -> None:
        refused = status is not None and status >= _ERRORS
        unfinished = reading.stop_reason is None and not refused
        model = reading.model or planned.model
        tokens = reading.tokens
        cost = self._prices.cost(self._upstream.choice(model), tokens) if reading.measured else None
        await self._context.charge(
            ModelCall(
                provider=ANTHROPIC,
                model=model,
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cached_tokens=tokens.cached,
                latency_ms=latency_ms,
                finish_reason=f"http_{status}" if refused else reading.stop_reason or _UNFINISHED,
                cost=Decimal(0) if refused else cost,
                booked=planned if unfinished or not (reading.measured or refused) else None,
            ),
            ticket,
        )

    async def _forward(
        self, incoming: HttpRequest, target: str, answer: ResponseWriter, reading: UsageReader
    ) -> int | None:
        """Send a request on and its answer back; return the status, None where none came."""
        headers = forwarded_headers(incoming)
        if self._upstream.api_key is not None:
            headers.append(("x-api-key", self._upstream.api_key))
        started = False
        try:
            async with self._client.stream(
                incoming.method, self._address + target, headers=headers, content=incoming.body
            ) as response:
                if response.status_code >= _ERRORS:
                    await self._pass_error(response, answer)
                    return response.status_code
                started = True
                await self._pass_answer(response, answer, reading)
                return response.status_code
        except httpx2.HTTPError as error:
            await self._broken(error, answer, started=started)
            return None

    async def _pass_answer(
        self, response: httpx2.Response, answer: ResponseWriter, reading: UsageReader
    ) -> None:
        await answer.begin(response.status_code, returned_headers(response))
        if "json" in response.headers.get("content-type", ""):
            body = await response.aread()
            reading.take(body)
            await answer.piece(body)
        else:
            async for chunk in response.aiter_bytes():
                reading.feed(chunk)
                await answer.piece(chunk)
        await answer.end()
        self.stop_reason = reading.stop_reason
        whole = reading.stop_reason is not None
        self.failure = None if whole else CallFailure(None, "the answer broke off")

    async def _pass_error(self, response: httpx2.Response, answer: ResponseWriter) -> None:
        body = (await response.aread())[:_KEPT_ERROR]
        message = self._upstream.without_key(_message_of(body) or response.reason_phrase)
        retry_after = wait_of(response.headers, body)
        self.failure = CallFailure(response.status_code, message, retry_after)
        headers = returned_headers(response)
        if (retry_after or 0.0) > LONGEST_PAUSE:
            # the attempt ends, and gives its slot to another
            headers = [*(each for each in headers if each[0] != NO_RETRY[0]), NO_RETRY]
        await respond(answer, response.status_code, headers, body)

    async def _broken(
        self, error: httpx2.HTTPError, answer: ResponseWriter, *, started: bool
    ) -> None:
        message = f"the connection failed: {type(error).__name__} {error}".rstrip()
        self.failure = CallFailure(None, message)
        if started:
            # The Messages API's own way to say so in the middle of a stream.
            await answer.piece(b"event: error\ndata: " + error_body("api_error", message) + b"\n\n")
            await answer.end()
        else:
            await refuse(answer, 502, "api_error", message, final=False)


def _milliseconds_since(began: float) -> int:
    return min(round((time.monotonic() - began) * 1000), MAX_COUNT)


def _message_of(body: bytes) -> str:
    error = _object(body).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _object(body: bytes) -> JsonObject:
    try:
        value = loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _clipped(incoming: HttpRequest, clip: Clip) -> HttpRequest:
    """Return a request with the limit of its answer that a budget sets."""
    body = dumps({**_object(incoming.body), "max_tokens": clip.output_tokens}).encode()
    return replace(incoming, body=body)


def _shortest_answer(request: JsonObject) -> int:
    """Return the lowest limit that the API takes and that leaves room for an answer."""
    thinking = request.get("thinking")
    thought = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return MIN_ANSWER_TOKENS + (thought if isinstance(thought, int) else 0)


def _least_input(request: JsonObject) -> int:
    """Return the fewest tokens that the input can have: one for each word of its texts.

    The API itself leaves out parts of a conversation where `context_management` asks it to.
    """
    if "context_management" in request:
        return 0
    return sum(
        len(text.split()) for text in _texts([request.get("system"), request.get("messages")])
    )


def _texts(value: JsonValue) -> Iterator[str]:
    """Yield the texts of contents, be they bare or in blocks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        yield from _texts(value.get("content"))
        yield from _texts(value.get("text"))


_SILENCE_SECONDS = 3_600.0
"""A server may keep a stream open for messages of its own; calls have their own time limit."""

_MAX_BYTES = 64 * 1024 * 1024


class ToolRelay:
    """Passes the requests of one attempt on to one server."""

    def __init__(self, server: HttpServer) -> None:
        """Reach `server`, with its headers, as far as its guard allows."""
        self._server = server
        self._client = guarded_client(
            server.guard,
            timeout_seconds=_SILENCE_SECONDS,
            max_bytes=_MAX_BYTES,
            headers=dict(server.headers),
        )

    async def relay(self, incoming: HttpRequest, answer: ResponseWriter) -> None:
        """Answer a request with what the server answers; ended by cancelling it."""
        started = False
        try:
            async with self._client.stream(
                incoming.method,
                self._server.url,
                headers=forwarded_headers(incoming),
                content=incoming.body or None,
            ) as response:
                started = True
                await answer.begin(response.status_code, returned_headers(response))
                async for chunk in response.aiter_bytes():
                    await answer.piece(chunk)
                await answer.end()
        except httpx2.HTTPError as error:
            if started:
                answer.cut()
            else:
                await refuse(answer, 502, "api_error", f"The MCP server can't be reached: {error}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


_COUNT_PATH = f"{MESSAGES_PATH}/count_tokens"


class Gateway:
    """Serves one attempt; made by `serving`."""

    def __init__(self, calls: MessagesProxy, servers: Sequence[ResolvedServer]) -> None:
        """Pass model requests to `calls`, and requests at `/mcp/N` to the Nth of `servers`."""
        self.key = secrets.token_urlsafe(32)
        self._calls = calls
        self._tools = {
            f"/mcp/{number}": ToolRelay(each.endpoint)
            for number, each in enumerate(servers)
            if isinstance(each.endpoint, HttpServer)
        }
        self._server = LoopbackServer(self._answer)

    @property
    def base_url(self) -> str:
        """The address that Claude Code is given."""
        return f"http://127.0.0.1:{self._server.port}"

    @classmethod
    @asynccontextmanager
    async def serving(
        cls, calls: MessagesProxy, servers: Sequence[ResolvedServer]
    ) -> AsyncIterator[Self]:
        """Serve while the block runs; calls that are under way at its end are cut off."""
        gateway = cls(calls, servers)
        async with AsyncExitStack() as stack:
            for relay in gateway._tools.values():
                stack.push_async_callback(relay.aclose)
            await stack.enter_async_context(gateway._server)
            yield gateway

    async def _answer(self, incoming: HttpRequest, answer: ResponseWriter) -> None:
        path, _, query = incoming.target.partition("?")
        if not secrets.compare_digest(incoming.header("x-api-key").encode(), self.key.encode()):
            await refuse(answer, 401, "authentication_error", "This key is not for here.")
        elif path in self._tools:
            await self._tools[path].relay(incoming, answer)
        elif incoming.method == "POST" and path == MESSAGES_PATH:
            await self._calls.message(incoming, query, answer)
        elif incoming.method == "POST" and path == _COUNT_PATH:
            await self._calls.count(incoming, query, answer)
        else:
            await refuse(answer, 404, "not_found_error", "Only messages pass here.")
