"""Calls of the Messages API: admitted, forwarded, metered, charged."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import httpx2

from celeriac.agents.claude.asgi import (
    NO_RETRY,
    Request,
    Send,
    error_body,
    refuse,
    respond,
    returned_headers,
)
from celeriac.agents.claude.metering import Answer
from celeriac.agents.claude.upstream import ANTHROPIC, Upstream
from celeriac.agents.pricing import Prices, Tokens
from celeriac.domain.errors import CeleriacError
from celeriac.domain.outcome import MustWaitError
from celeriac.domain.usage import MAX_COUNT, ModelCall, PlannedCall, Ticket
from celeriac.kit.jsontypes import JsonObject, loads
from celeriac.kit.shielding import despite_cancellation
from celeriac.services.ports import RunContext

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"

_BYTES_PER_TOKEN = 3
"""A cautious guess for what is about to be sent; the bill is measured, not guessed."""

_LONGEST_RETRY_AFTER = 5.0
"""Seconds that a call waits in its place when the provider asks to slow down; an attempt that is
asked to wait longer ends, and gives its slot to another."""

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


class Calls:
    """The calls of one attempt; belongs to its event loop.

    What the context refuses goes to `on_stop`, and Claude Code is told no.
    """

    def __init__(
        self,
        upstream: Upstream,
        client: httpx2.AsyncClient,
        *,
        prices: Prices,
        context: RunContext,
        on_stop: Callable[[Exception], None],
    ) -> None:
        self.failure: CallFailure | None = None
        """Why the newest call failed, if it did."""
        self.answered = 0
        """How many calls were answered in full."""
        self.waiting = 0
        """How many calls wait for leave."""
        self._upstream = upstream
        self._client = client
        self._prices = prices
        self._context = context
        self._on_stop = on_stop
        self._answers: list[Answer] = []
        self._relays: set[asyncio.Task[None]] = set()

    async def alone(self, tool_call: str) -> bool:
        """Whether a tool call is the only one of its answer; waits until all of that is there."""
        for answer in self._answers:
            if tool_call in answer.tool_calls:
                await answer.ended.wait()
                return len(answer.tool_calls) == 1
        return True

    async def cut_off(self) -> None:
        """End the calls that are still under way, and charge them."""
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    async def relay(self, request: Request, send: Send) -> None:
        """Answer a request with what the provider answers; ended by cancelling it."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        if request.path == COUNT_PATH:
            await self._forward(request, Answer(), send)
            return
        try:
            await self._message(request, send)
        except (CeleriacError, MustWaitError) as error:
            self._on_stop(error)

    async def _message(self, request: Request, send: Send) -> None:
        planned = self._plan(request)
        self.waiting += 1
        try:
            ticket = await self._context.admit(planned)
        except (CeleriacError, MustWaitError) as error:
            await refuse(send, 403, "permission_error", str(error))
            raise
        finally:
            self.waiting -= 1
        answer, began, status = Answer(), time.monotonic(), None
        self._answers.append(answer)
        try:
            status = await self._forward(request, answer, send)
        finally:
            answer.ended.set()
            self.answered += answer.stop_reason is not None
            await despite_cancellation(
                self._charge(answer, planned, ticket, _milliseconds_since(began), status)
            )

    def _plan(self, request: Request) -> PlannedCall:
        """Say the most that a call can use: its size and its own limit of output."""
        wish = _object(request.body)
        model, limit = wish.get("model"), wish.get("max_tokens")
        name = model if isinstance(model, str) and model else "unknown"
        tokens = Tokens(
            input=min(len(request.body) // _BYTES_PER_TOKEN + 1, MAX_COUNT),
            output=min(limit, MAX_COUNT) if isinstance(limit, int) and limit > 0 else 0,
        )
        cost = self._prices.cost(self._upstream.choice(name), tokens)
        return PlannedCall(ANTHROPIC, name, tokens.input, tokens.output, cost)

    async def _charge(
        self,
        answer: Answer,
        planned: PlannedCall,
        ticket: Ticket | None,
        latency_ms: int,
        status: int | None,
    ) -> None:
        refused = status is not None and status >= _ERRORS
        model = answer.model or planned.model
        tokens = answer.tokens
        cost = self._prices.cost(self._upstream.choice(model), tokens) if answer.measured else None
        await self._context.charge(
            ModelCall(
                provider=ANTHROPIC,
                model=model,
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cached_tokens=tokens.cached,
                latency_ms=latency_ms,
                finish_reason=f"http_{status}" if refused else answer.stop_reason or _UNFINISHED,
                cost=Decimal(0) if refused else cost,
            ),
            ticket,
        )

    async def _forward(self, request: Request, answer: Answer, send: Send) -> int | None:
        """Send a request on and its answer back; return the status, None where none came."""
        headers = request.forwarded_headers()
        if self._upstream.api_key is not None:
            headers["x-api-key"] = self._upstream.api_key
        url = self._upstream.base_url.rstrip("/") + request.path
        started = False
        try:
            async with self._client.stream(
                "POST",
                f"{url}?{request.query}" if request.query else url,
                headers=headers,
                content=request.body,
            ) as response:
                if response.status_code >= _ERRORS:
                    await self._pass_error(response, send)
                    return response.status_code
                started = True
                await self._pass_answer(response, answer, send)
                return response.status_code
        except httpx2.HTTPError as error:
            await self._broken(error, send, started=started)
            return None

    async def _pass_answer(self, response: httpx2.Response, answer: Answer, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": returned_headers(response),
            }
        )
        if "event-stream" in response.headers.get("content-type", ""):
            async for chunk in response.aiter_bytes():
                answer.feed(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            body = await response.aread()
            answer.take(body)
            await send({"type": "http.response.body", "body": body})
        if answer.stop_reason is None:
            self.failure = CallFailure(None, "the answer broke off")
        else:
            self.failure = None

    async def _pass_error(self, response: httpx2.Response, send: Send) -> None:
        body = (await response.aread())[:_KEPT_ERROR]
        message = self._upstream.without_key(_message_of(body) or response.reason_phrase)
        retry_after = _seconds(response.headers.get("retry-after"))
        self.failure = CallFailure(response.status_code, message, retry_after)
        headers = returned_headers(response)
        if response.status_code == SLOW_DOWN and (retry_after or 0.0) > _LONGEST_RETRY_AFTER:
            headers = [*(each for each in headers if each[0] != NO_RETRY[0]), NO_RETRY]
        await respond(send, response.status_code, headers, body)

    async def _broken(self, error: httpx2.HTTPError, send: Send, *, started: bool) -> None:
        message = f"the connection failed: {type(error).__name__} {error}".rstrip()
        self.failure = CallFailure(None, message)
        if started:
            # The Messages API's own way to say so in the middle of a stream.
            event = b"event: error\ndata: " + error_body("api_error", message) + b"\n\n"
            await send({"type": "http.response.body", "body": event})
        else:
            await refuse(send, 502, "api_error", message, final=False)


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


def _seconds(text: str | None) -> float | None:
    """Read a Retry-After; dates and nonsense count as none."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
