"""Calls of the Messages API: admitted, forwarded, metered, charged."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import httpx2

from celeriac.agents.base import emit_clipped
from celeriac.agents.claude.http import (
    NO_RETRY,
    error_body,
    forwarded_headers,
    refuse,
    respond,
    returned_headers,
)
from celeriac.agents.claude.metering import Reading
from celeriac.agents.claude.upstream import ANTHROPIC, Upstream
from celeriac.agents.gateway.waiting import LONGEST_PAUSE, wait_of
from celeriac.agents.pricing import Prices, Tokens
from celeriac.agents.tape.server import Answer, Incoming
from celeriac.domain.budget_room import MIN_ANSWER_TOKENS
from celeriac.domain.errors import CeleriacError
from celeriac.domain.outcome import MustWaitError
from celeriac.domain.usage import MAX_COUNT, Clip, ModelCall, PlannedCall, Ticket
from celeriac.kit.jsontypes import JsonObject, JsonValue, dumps, loads
from celeriac.kit.shielding import despite_cancellation
from celeriac.services.ports import RunContext

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


class Calls:
    """The calls of one attempt; belongs to its event loop.

    Requests go to `address`. Whatever goes wrong here, refusals of the context above all, goes to
    `on_stop`, and Claude Code is told no.
    """

    def __init__(
        self,
        upstream: Upstream,
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
        self._readings: list[Reading] = []

    async def alone(self, tool_call: str) -> bool:
        """Whether a tool call is the only one of its answer; waits until all of that is there."""
        for reading in self._readings:
            if tool_call in reading.tool_calls:
                await reading.ended.wait()
                return len(reading.tool_calls) == 1
        return True

    async def count(self, incoming: Incoming, query: str, answer: Answer) -> None:
        """Answer a request to count tokens, which costs nothing."""
        await self._forward(incoming, f"{MESSAGES_PATH}/count_tokens?{query}", answer, Reading())

    async def message(self, incoming: Incoming, query: str, answer: Answer) -> None:
        """Answer a request for a message; ended, and charged, by cancelling it."""
        try:
            await self._message(incoming, f"{MESSAGES_PATH}?{query}", answer)
        except ConnectionError:
            raise  # Claude Code has gone
        except Exception as error:  # noqa: BLE001 - raised by the attempt
            self._on_stop(error)

    async def _message(self, incoming: Incoming, target: str, answer: Answer) -> None:
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
        reading, began, status = Reading(), time.monotonic(), None
        self._readings.append(reading)
        try:
            status = await self._forward(incoming, target, answer, reading)
        finally:
            reading.ended.set()
            await despite_cancellation(
                self._charge(reading, planned, ticket, _milliseconds_since(began), status)
            )
        if clip is not None and reading.stop_reason == CUT_OFF:
            await emit_clipped(self._context, clip)

    def _plan(self, incoming: Incoming) -> PlannedCall:
        """Say about the most that a call will use, from its size.

        Claude Code leaves room for answers of many thousand tokens that hardly any of them needs;
        to reserve it all would keep most of a budget idle.
        """
        wish = _object(incoming.body)
        model, limit = wish.get("model"), wish.get("max_tokens")
        name = model if isinstance(model, str) and model else "unknown"
        tokens = Tokens(
            input=min(len(incoming.body) // _BYTES_PER_TOKEN + 1, MAX_COUNT),
            output=min(limit, _LIKELY_OUTPUT) if isinstance(limit, int) else _LIKELY_OUTPUT,
        )
        least, shortest = _least_input(wish), _shortest_answer(wish)
        if isinstance(limit, int):
            shortest = min(shortest, limit)

        def cost(used: Tokens) -> Decimal | None:
            return self._prices.cost(self._upstream.choice(name), used)

        return PlannedCall(
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
        reading: Reading,
        planned: PlannedCall,
        ticket: Ticket | None,
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
        self, incoming: Incoming, target: str, answer: Answer, reading: Reading
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
        self, response: httpx2.Response, answer: Answer, reading: Reading
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

    async def _pass_error(self, response: httpx2.Response, answer: Answer) -> None:
        body = (await response.aread())[:_KEPT_ERROR]
        message = self._upstream.without_key(_message_of(body) or response.reason_phrase)
        retry_after = wait_of(response.headers, body)
        self.failure = CallFailure(response.status_code, message, retry_after)
        headers = returned_headers(response)
        if (retry_after or 0.0) > LONGEST_PAUSE:
            # the attempt ends, and gives its slot to another
            headers = [*(each for each in headers if each[0] != NO_RETRY[0]), NO_RETRY]
        await respond(answer, response.status_code, headers, body)

    async def _broken(self, error: httpx2.HTTPError, answer: Answer, *, started: bool) -> None:
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


def _clipped(incoming: Incoming, clip: Clip) -> Incoming:
    """Return a request with the limit of its answer that a budget sets."""
    body = dumps({**_object(incoming.body), "max_tokens": clip.output_tokens}).encode()
    return replace(incoming, body=body)


def _shortest_answer(wish: JsonObject) -> int:
    """Return the lowest limit that the API takes and that leaves room for an answer."""
    thinking = wish.get("thinking")
    thought = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return MIN_ANSWER_TOKENS + (thought if isinstance(thought, int) else 0)


def _least_input(wish: JsonObject) -> int:
    """Return the fewest tokens that the input can have: one for each word of its texts.

    The API itself leaves out parts of a conversation where `context_management` asks it to.
    """
    if "context_management" in wish:
        return 0
    return sum(len(text.split()) for text in _texts([wish.get("system"), wish.get("messages")]))


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
