"""The wire format of Anthropic's Messages API: requests, answers as they pass, errors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2

from celeriac.agents.gateway.calls import (
    USUAL_OUTPUT_TOKENS,
    Answer,
    RequestSize,
    WireFormat,
    object_of,
    words_of,
)
from celeriac.agents.gateway.completions import count_of, objects_in, part_of
from celeriac.agents.gateway.headers import without_hop_headers
from celeriac.agents.gateway.sse import Event, EventReader, EventTooLongError
from celeriac.agents.models import Tokens
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import ExecutionError
from celeriac.kit.json_types import JsonObject, dumps

_READ = ("message_start", "content_block_start", "message_delta")
_COUNTED = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


class Messages(WireFormat):
    """The format of one attempt, which remembers the tool calls of its answers."""

    charges_failures = True
    call_paths = ("/v1/messages",)
    free_paths = ("/v1/messages/count_tokens",)
    follows_redirects = False

    def __init__(self) -> None:
        self._answers: list[MessageAnswer] = []

    def key_header(self, key: str) -> tuple[str, str]:
        """Return the header that holds the provider's key."""
        return "x-api-key", key

    async def is_alone(self, tool_call: str) -> bool:
        """Whether a tool call is the only one of its answer; waits for the end of the answer."""
        for answer in self._answers:
            if tool_call in answer.tool_calls:
                await answer.ended.wait()
                return len(answer.tool_calls) == 1
        return True

    def size_of(self, request: JsonObject) -> RequestSize:
        """Return what a request may use.

        Claude Code leaves room for answers of many thousand tokens, which few of them need. To
        reserve all of it would keep most of a budget idle.
        """
        model, limit = request.get("model"), request.get("max_tokens")
        limit = limit if isinstance(limit, int) else None
        thinking = part_of(request, "thinking").get("budget_tokens")
        texts = [request.get("system"), request.get("messages")]
        # the API itself leaves out parts of a conversation where this field asks for it
        least = 0 if "context_management" in request else words_of(texts)
        return RequestSize(
            model if isinstance(model, str) and model else "unknown",
            output=min(limit or USUAL_OUTPUT_TOKENS, USUAL_OUTPUT_TOKENS),
            least_input=least,
            # the limit must exceed the tokens for thinking
            least_output=MIN_ANSWER_TOKENS + (thinking if isinstance(thinking, int) else 0),
            output_limit=limit,
        )

    def prepared(self, request: JsonObject, limit: int | None) -> JsonObject:
        """Return the request with `limit`."""
        return request if limit is None else {**request, "max_tokens": limit}

    def answer(
        self, response: httpx2.Response, *, streamed: bool, on_piece: Callable[[], None]
    ) -> "MessageAnswer":
        """Read an answer, which passes unchanged."""
        del streamed, on_piece  # the client of this API watches it itself
        answer = MessageAnswer(response)
        self._answers.append(answer)
        return answer

    def error_body(self, error: ExecutionError) -> bytes:
        """Return an error as the Messages API writes it."""
        return error_body("api_error", error.message)

    def stream_error(self, error: ExecutionError) -> bytes:
        """Return the event that reports an error within a stream."""
        return b"event: error\ndata: " + self.error_body(error) + b"\n\n"


def error_body(kind: str, message: str) -> bytes:
    """Return an error of one of the API's types, as JSON."""
    return dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


class MessageAnswer(Answer):
    """An answer of the Messages API, be it a stream of events or one JSON object.

    What can't be read is skipped: the client judges the answer, this only counts.
    """

    begun = True

    def __init__(self, response: httpx2.Response | None = None) -> None:
        self.tool_calls: list[str] = []
        """The ids of its tool calls, in order."""
        self.ended = asyncio.Event()
        """Set once nothing more comes."""
        self.headers = {} if response is None else without_hop_headers(response.headers.items())
        self._response = response
        self._usage: dict[str, int] = {}
        self._reader: EventReader | None = EventReader()

    @property
    def tokens(self) -> Tokens:
        """What was used; tokens read from and written to the cache are part of the input."""
        used = self._usage.get
        read, written = used("cache_read_input_tokens", 0), used("cache_creation_input_tokens", 0)
        return Tokens(
            input=used("input_tokens", 0) + read + written,
            output=used("output_tokens", 0),
            cached=read,
            cache_written=written,
        )

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        assert self._response is not None
        try:
            if "json" in self._response.headers.get("content-type", ""):
                body = await self._response.aread()
                self.take(body)
                yield body
                return
            async for piece in self._response.aiter_bytes():
                self.feed(piece)
                yield piece
            for event in self._reader.end() if self._reader else ():
                self._event(event)
        finally:
            self.ended.set()

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of a stream of events."""
        if self._reader is None:
            return
        try:
            for event in self._reader.feed(chunk):
                self._event(event)
        except EventTooLongError:
            self._reader = None  # the rest of the stream is not counted

    def take(self, body: bytes) -> None:
        """Read a whole answer that was not streamed."""
        message = object_of(body)
        self._message(message)
        for block in objects_in(message.get("content")):
            self._block(block)

    def _event(self, event: Event) -> None:
        # most events are pieces of text, which need not be decoded
        if event.name and event.name not in _READ:
            return
        data = object_of(event.data)
        match data.get("type"):
            case "message_start":
                self._message(part_of(data, "message"))
            case "content_block_start":
                self._block(part_of(data, "content_block"))
            case "message_delta":
                self._count(part_of(data, "usage"))
                self._stop(part_of(data, "delta"))

    def _message(self, message: Mapping[str, Any]) -> None:
        model = message.get("model")
        if isinstance(model, str):
            self.model = model
        self._count(part_of(message, "usage"))
        self._stop(message)

    def _block(self, block: Mapping[str, Any]) -> None:
        if block.get("type") == "tool_use" and isinstance(block.get("id"), str):
            self.tool_calls.append(block["id"])

    def _stop(self, source: Mapping[str, Any]) -> None:
        reason = source.get("stop_reason")
        if isinstance(reason, str):
            self.finish_reason = reason

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Add counts; those of later events are totals, and some gateways set them to zero."""
        for name in _COUNTED:
            if name in usage:
                self._usage[name] = max(self._usage.get(name, 0), count_of(usage[name]))
