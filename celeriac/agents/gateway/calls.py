"""One model call: estimated, admitted, metered, then charged or released. The only place for that.

`client` sends the requests; a wire format (`openai`, `anthropic`) reads and writes their bodies.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any

import httpx2

from celeriac import traces
from celeriac.agents.base import emit_clipped
from celeriac.agents.gateway.errors import CallFailure, failure_of_exception, failure_of_response
from celeriac.agents.models import ModelRef, Prices, Provider, Tokens
from celeriac.domain.errors import ExecutionError
from celeriac.domain.usage import MAX_COUNT, CallEstimate, Clip, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject, JsonValue, dumps
from celeriac.kit.loop import run_shielded
from celeriac.services.ports import RunContext
from celeriac.traces.agents import ModelCallTrace

UNFINISHED = "unfinished"
"""The finish reason of a call that was cut off: by an error, a limit or a cancellation."""

USUAL_OUTPUT_TOKENS = 4_096
"""The most that an answer is expected to need where its request sets no limit."""

CUT_OFF = frozenset({"length", "max_tokens"})
"""The finish reasons of answers that their token limit has cut off."""

_BYTES_PER_TOKEN = 3
"""Texts have more in most languages (English about four), so estimates are rather too high."""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What a request may use, in tokens, as far as its body shows."""

    model: str
    output: int
    """The most that its answer is expected to need."""
    least_input: int
    """The fewest that its input can have."""
    least_output: int
    """The shortest answer that is worth the call."""
    output_limit: int | None = None
    """The limit of the answer that the request names, where it is not `output`."""
    input: int | None = None
    """The most that its input is expected to have; by default that of its whole body."""


class Answer(ABC):
    """A provider's answer to one call, read as it passes."""

    model: str | None = None
    """The model that answered, where calls are recorded under that name."""
    finish_reason: str | None = None
    """How it ended; None until it has."""
    begun = False
    """Whether anything of an answer came."""
    text_bytes = 0
    """The size of its text so far."""
    headers: Mapping[str, str] = MappingProxyType({})
    """What to send before the pieces."""

    @property
    @abstractmethod
    def tokens(self) -> Tokens:
        """What was used, as far as the provider has reported it; zeros where it has not."""

    @abstractmethod
    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body to pass on. Raises AnswerError and the errors of the connection."""

    @property
    def measured(self) -> bool:
        """Whether the provider reported what was used."""
        return bool(self.tokens.input or self.tokens.output)


class WireFormat(ABC):
    """How one API writes requests and answers."""

    charges_failures: bool
    """Whether calls that failed are recorded too, those refused as `http_STATUS` at no cost."""
    call_paths: tuple[str, ...]
    """The paths, after the base URL, that ask a model, and so are metered."""
    free_paths: tuple[str, ...] = ()
    """Other paths that programs may request."""
    follows_redirects: bool
    """Whether redirects are followed: HTTP clients keep only some keys from other hosts."""

    @abstractmethod
    def key_header(self, key: str) -> tuple[str, str]:
        """Return the header that holds the provider's key."""

    @abstractmethod
    def size_of(self, request: JsonObject) -> RequestSize:
        """Return what a request may use."""

    @abstractmethod
    def prepared(self, request: JsonObject, limit: int | None) -> JsonObject:
        """Return the request to send; its answer may have at most `limit` tokens."""

    @abstractmethod
    def answer(
        self, response: httpx2.Response, *, streamed: bool, on_piece: Callable[[], None]
    ) -> Answer:
        """Read a successful response; `on_piece` is called for each piece that comes."""

    @abstractmethod
    def error_body(self, error: ExecutionError) -> bytes:
        """Return an error in the API's form, as JSON."""

    @abstractmethod
    def stream_error(self, error: ExecutionError) -> bytes:
        """Return the event that reports an error within a stream."""


class SilenceWatch:
    """Follows the requests of a run, to notice a model that sends nothing; this one does not."""

    def asked(self) -> None:
        """A request was sent: an answer is due."""

    def heard(self) -> None:
        """A piece of the answer came: the next one is due."""

    def rest(self) -> None:
        """Nothing is due."""


class ModelCalls:
    """The model calls of one attempt; belongs to its event loop."""

    def __init__(
        self,
        context: RunContext,
        prices: Prices,
        *,
        watch: SilenceWatch | None = None,
        on_admitted: Callable[[], Awaitable[None]] | None = None,
        on_stop: Callable[[Exception], None] | None = None,
    ) -> None:
        """Admit and charge calls at `context`; `on_admitted` is awaited before each is sent."""
        self.context = context
        self.watch = watch or SilenceWatch()
        self.failure: CallFailure | None = None
        """Why the newest call failed, if it did."""
        self.finish_reason: str | None = None
        """How the newest answer ended."""
        self.clip: Clip | None = None
        """The limit that a budget set for the newest answer."""
        self.stopped: Exception | None = None
        """What the context raised first."""
        self.place = traces.place()
        """The span that the calls are a part of, whichever task sends them."""
        self._prices = prices
        self._on_admitted = on_admitted
        self.on_stop = on_stop
        """Is given what the context raises, above all refusals: the attempt must end with it."""

    async def begin(self, provider: Provider, wire: WireFormat, body: bytes) -> "Call":
        """Admit a call; its `end` must be awaited. Raises what `RunContext.admit` does."""
        request = object_of(body)
        size = wire.size_of(request)
        choice = ModelRef(provider, size.model)
        cost = partial(self._prices.cost, choice)
        tokens = _tokens_of_body(request, body) if size.input is None else size.input
        estimate = estimate_of(provider.name, size, tokens, cost)
        try:
            reservation = await self.context.admit(estimate)
            self.clip = None if reservation is None else reservation.clip
            call = Call(self, wire, choice, estimate, reservation, request=request, body=body)
            if self._on_admitted is not None:
                await call.guarded(self._on_admitted())
        except Exception as error:
            self.stop(error)
            raise
        self.watch.asked()
        return call

    def stop(self, error: Exception) -> None:
        """Have the attempt end with `error`."""
        self.stopped = self.stopped or error
        if self.on_stop is not None:
            self.on_stop(error)

    def cost(self, choice: ModelRef, tokens: Tokens) -> Decimal | None:
        """Return what a call costs in US dollars; None where no price is known."""
        return self._prices.cost(choice, tokens)


class Call:
    """One call between its admission and its charge."""

    def __init__(
        self,
        calls: ModelCalls,
        wire: WireFormat,
        choice: ModelRef,
        estimate: CallEstimate,
        reservation: Reservation | None,
        *,
        request: JsonObject,
        body: bytes,
    ) -> None:
        self.streamed = request.get("stream") is True
        self._calls = calls
        self._wire = wire
        self._choice = choice
        self._estimate = estimate
        self._reservation = reservation
        self._clip = None if reservation is None else reservation.clip
        limit = None if self._clip is None else self._clip.output_tokens
        prepared = wire.prepared(request, limit) if request else request
        self.body = body if prepared is request else encoded(prepared)
        """The body to send."""
        self._began = time.monotonic()
        self._trace = ModelCallTrace(choice.provider.name, choice.model, calls.place)
        self._answer: Answer | None = None
        self._failed = False
        self._status: int | None = None
        self._ended = False

    def answered(self, response: httpx2.Response) -> Answer:
        """Read the provider's answer."""
        self._failed, self._status = False, None  # an earlier try's
        self._answer = self._wire.answer(
            response, streamed=self.streamed, on_piece=self._calls.watch.heard
        )
        return self._answer

    async def passed(self) -> AsyncIterator[bytes]:
        """Yield the answer's body; raises AnswerError and what the connection raises."""
        assert self._answer is not None
        try:
            async for piece in self._answer.pieces():
                yield piece
        except Exception as error:
            self.failed(error)
            raise
        reason = self._calls.finish_reason = self._answer.finish_reason
        self._calls.failure = None if reason else CallFailure(None, "the answer broke off")

    def refused(self, response: httpx2.Response) -> CallFailure:
        """Note a refusal, whose body was read."""
        self._status = response.status_code
        failure = failure_of_response(
            response.status_code,
            response.headers,
            response.content,
            key=self._choice.provider.api_key,
        )
        self._calls.failure = failure
        return failure

    def failed(self, error: Exception) -> None:
        """Note that the connection failed, or that the answer can't be used."""
        self._failed = True
        self._calls.failure = failure_of_exception(error, key=self._choice.provider.api_key)

    async def end(self) -> None:
        """Charge the call, or release its reservation; cancelling this does not stop it."""
        if self._ended:
            return
        self._ended = True
        self._calls.watch.rest()
        self._end_trace()
        try:
            await run_shielded(self._settle())
        except Exception as error:
            self._calls.stop(error)
            raise

    async def guarded(self, work: Awaitable[None]) -> None:
        """Await `work`; the call has ended where that fails."""
        try:
            await work
        except BaseException:
            self._failed = True
            await self.end()
            raise

    def _end_trace(self) -> None:
        answer, error = self._answer, None
        if self._status is not None:
            error = str(self._status)
        elif self._failed or answer is None or answer.finish_reason is None:
            error = UNFINISHED
        tokens = Tokens(0, 0) if answer is None else answer.tokens
        self._trace.end(
            model=None if answer is None else answer.model,
            tokens=(tokens.input, tokens.cached, tokens.output),
            finish_reason=None if answer is None else answer.finish_reason,
            error=error,
        )

    async def _settle(self) -> None:
        context = self._calls.context
        if not self._is_charged:
            if self._reservation is not None:
                await context.release(self._reservation)
            return
        call = self._charged()
        await context.charge(call, self._reservation)
        if self._clip is not None and call.finish_reason in CUT_OFF:
            await emit_clipped(context, self._clip)

    @property
    def _is_charged(self) -> bool:
        """Whether the model may have begun to answer."""
        if self._wire.charges_failures:
            return True
        if self._answer is not None and (self._answer.begun or self._answer.measured):
            return True
        # a stream sends its first piece soon, another answer only once it is complete
        return not (self.streamed or self._failed or self._status)

    def _charged(self) -> ModelCall:
        answer = self._answer
        measured = answer is not None and answer.measured
        tokens = answer.tokens if answer is not None else Tokens(0, 0)
        reason = None if answer is None else answer.finish_reason
        choice = self._choice
        if answer is not None and answer.model:
            choice = ModelRef(choice.provider, answer.model)
        cost = self._calls.cost(choice, tokens) if measured else None
        if self._status is not None:
            reason, cost = f"http_{self._status}", Decimal(0)
        unknown = self._status is None and not measured
        # Anthropic reports the input first and the output last: half a report is none
        unknown = unknown or (self._wire.charges_failures and reason is None)
        return ModelCall(
            provider=choice.provider.name,
            model=choice.model,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cached_tokens=min(tokens.cached, tokens.input),
            latency_ms=min(round((time.monotonic() - self._began) * 1000), MAX_COUNT),
            finish_reason=reason or UNFINISHED,
            cost=cost,
            booked=self._booked() if unknown else None,
        )

    def _booked(self) -> CallEstimate:
        """Return what budgets are charged for a call whose use was not reported."""
        answer = self._answer
        if answer is None or self._wire.charges_failures:
            return self._estimate
        estimate = self._estimate
        tokens = Tokens(estimate.input_tokens, tokens_of_bytes(answer.text_bytes))
        return CallEstimate(
            estimate.provider,
            estimate.model,
            tokens.input,
            tokens.output,
            self._calls.cost(self._choice, tokens),
        )


def estimate_of(
    provider: str,
    size: RequestSize,
    input_tokens: int,
    cost: Callable[[Tokens], Decimal | None],
) -> CallEstimate:
    """Return the estimate of a call with at most `input_tokens`; `cost` is that of its model."""
    least, shortest = size.least_input, min(size.least_output, size.output_limit or size.output)
    return CallEstimate(
        provider,
        size.model,
        input_tokens,
        size.output,
        cost(Tokens(input_tokens, size.output)),
        input_cost=cost(Tokens(input_tokens, 0)),
        least_tokens=least + shortest,
        least_cost=cost(Tokens(least, shortest, cached=least)),
        least_output=None if size.output_limit is None else shortest,
        output_limit=size.output_limit,
    )


_current: ContextVar[ModelCalls] = ContextVar("model_calls")


def current_calls() -> ModelCalls:
    """Return the calls that requests of this task belong to; raises LookupError for none."""
    return _current.get()


@contextmanager
def calling(calls: ModelCalls) -> Iterator[None]:
    """Count the requests of the block, and of tasks that it starts, among `calls`."""
    token = _current.set(calls)
    try:
        yield
    finally:
        _current.reset(token)


def tokens_of_bytes(size: int) -> int:
    """Return about the most tokens that a text of `size` bytes has."""
    return min(-(-size // _BYTES_PER_TOKEN), MAX_COUNT)


def _tokens_of_body(request: JsonObject, body: bytes) -> int:
    # encoded by us: a client that escapes its texts would seem to send several times as much
    escaped = bool(request) and body.isascii()
    return tokens_of_bytes(len(encoded(request)) if escaped else len(body))


def words_of(value: JsonValue) -> int:
    """Return the fewest tokens that contents can have: one for each word of their texts.

    `value` is a text, or messages and blocks with their texts in `content` and `text`. Tools and
    files are left out: a call that would fit must not be refused for an estimate.
    """
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(words_of, value))
    if isinstance(value, dict):
        return words_of(value.get("content")) + words_of(value.get("text"))
    return 0


def object_of(body: str | bytes) -> dict[str, Any]:
    """Return a body as an object, empty where it is none."""
    try:
        value = json.loads(body)  # unlike ours it takes lone surrogates, which clients escape
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def encoded(value: JsonValue) -> bytes:
    """Return a value as JSON, in UTF-8 where that can encode it."""
    try:
        return dumps(value).encode()
    except TypeError:
        return json.dumps(value).encode()
