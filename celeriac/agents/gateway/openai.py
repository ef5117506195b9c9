"""The wire format of OpenAI's chat completions: requests, streamed and whole answers, errors."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal

import httpx2

from celeriac.agents.gateway.calls import (
    USUAL_OUTPUT_TOKENS,
    Answer,
    RequestSize,
    WireFormat,
    encoded,
    tokens_of_bytes,
    words_of,
)
from celeriac.agents.gateway.completions import (
    TOOL_CALLS,
    AnswerError,
    ToolCalls,
    Usage,
    choice_of,
    completion_of,
    count_of,
    ending_of,
    part_of,
    raise_error,
    settled,
    shown,
)
from celeriac.agents.gateway.sse import Event, EventReader
from celeriac.agents.models import OPENAI, OPENAI_HOST, Provider, Tokens
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import ExecutionError
from celeriac.domain.usage import MAX_COUNT
from celeriac.kit.json_types import JsonObject, JsonValue, dumps

_LIMITS = ("max_completion_tokens", "max_tokens")
"""The fields that bound an answer: OpenAI's own models know the first, other servers the second."""

_MESSAGE_TOKENS = 8
"""What a message has besides its contents."""


def _input_of(request: JsonObject) -> int | None:
    """Return about the most tokens of the messages, tools and schema; None without messages."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        return None
    parts = [each for each in messages if isinstance(each, dict)]
    contents = [value for each in parts for name, value in each.items() if name != "role"]
    contents += [request.get(name) for name in ("tools", "functions", "response_format")]
    size = sum(
        len(each.encode(errors="replace")) if isinstance(each, str) else len(encoded(each))
        for each in contents
        if each is not None
    )
    return min(_MESSAGE_TOKENS * len(messages) + tokens_of_bytes(size), MAX_COUNT)


class ChatCompletions(WireFormat):
    """The format of one provider that has OpenAI's API."""

    charges_failures = False
    call_paths = ("/chat/completions",)
    follows_redirects = True

    def __init__(self, provider: Provider) -> None:
        own = provider.name == OPENAI or OPENAI_HOST in provider.base_url
        self.limit_field = _LIMITS[0] if own else _LIMITS[1]
        """The field of a request that bounds its answer."""

    def key_header(self, key: str) -> tuple[str, str]:
        """Return the header that holds the provider's key."""
        return "authorization", f"Bearer {key}"

    def size_of(self, request: JsonObject) -> RequestSize:
        """Return what a request may use."""
        model = request.get("model")
        limits = (request.get(name) for name in _LIMITS)
        limit = next((each for each in limits if isinstance(each, int) and each > 0), None)
        return RequestSize(
            model if isinstance(model, str) and model else "unknown",
            output=USUAL_OUTPUT_TOKENS if limit is None else limit,
            least_input=words_of(request.get("messages")),
            least_output=MIN_ANSWER_TOKENS,
            input=_input_of(request),
        )

    def prepared(self, request: JsonObject, limit: int | None) -> JsonObject:
        """Return the request with `limit`; a stream is asked to include its usage."""
        changes: dict[str, JsonValue] = {}
        if limit is not None:
            changes[next((each for each in _LIMITS if request.get(each)), self.limit_field)] = limit
        options = part_of(request, "stream_options")
        if request.get("stream") is True and options.get("include_usage") is not True:
            changes["stream_options"] = {**options, "include_usage": True}
        return {**request, **changes} if changes else request

    def answer(
        self, response: httpx2.Response, *, streamed: bool, on_piece: Callable[[], None]
    ) -> "StreamedAnswer | WholeAnswer":
        """Read an answer."""
        return StreamedAnswer(response, on_piece) if streamed else WholeAnswer(response)

    def error_body(self, error: ExecutionError) -> bytes:
        """Return an error as OpenAI writes it, with what else a child process needs of it."""
        described = {
            "message": error.message,
            "type": error.code,
            "code": error.code,
            "retryable": error.retryable,
            "retry_after": getattr(error, "retry_after", None),
            "details": dict(error.details),
        }
        return dumps({"error": described}).encode()

    def stream_error(self, error: ExecutionError) -> bytes:
        """Return the event that reports an error within a stream."""
        return b"data: " + self.error_body(error) + b"\n\n"


_OPEN, _CLOSE = "<think>", "</think>"

Kind = Literal["content", "reasoning_content"]
Piece = tuple[Kind, str]


class InlineThinking:
    """Separates reasoning in `<think>` tags from the text of one answer.

    Only tags at the beginning count; later ones belong to the text.
    """

    def __init__(self) -> None:
        self._state: Literal["begin", "thought", "gap", "text"] = "begin"
        self._held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield the pieces that are certain so far."""
        text, self._held = self._held + text, ""
        if self._state == "begin":
            begun = text.lstrip()
            if not begun or (_OPEN.startswith(begun) and begun != _OPEN):
                self._held = text
                return
            if begun.startswith(_OPEN):
                self._state, text = "thought", begun.removeprefix(_OPEN)
            else:
                self._state = "text"
        if self._state == "thought":
            thought, closed, text = text.partition(_CLOSE)
            if closed:
                self._state = "gap"
            else:
                cut = len(thought) - _overlap(thought)
                thought, self._held = thought[:cut], thought[cut:]
            if thought:
                yield "reasoning_content", thought
        if self._state == "gap" and (text := text.lstrip()):
            self._state = "text"
        if text and self._state == "text":
            if text in (_OPEN, _CLOSE):  # the model library would mistake it for a tag
                yield "content", text[:1]
                text = text[1:]
            yield "content", text

    def end(self) -> Iterator[Piece]:
        """Yield the rest."""
        if self._held:
            kind: Kind = "reasoning_content" if self._state == "thought" else "content"
            yield kind, self._held
            self._held = ""


def _overlap(text: str) -> int:
    """Return how many characters at the end of `text` may begin the closing tag."""
    longest = min(len(text), len(_CLOSE) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(_CLOSE[:n])), 0)


MAX_WHOLE_BYTES = 16 * 1024 * 1024
"""The size limit of an answer that is not a stream."""

_SHOWN_BYTES = 2_000
_DONE = "[DONE]"
_FIELDS = (b"data", b"event", b"id", b"retry", b":")
_KEPT_IN_DELTA = ("role", "refusal", "reasoning_content", "reasoning")


class _Answer(Answer):
    """An answer that is passed on in OpenAI's own form."""

    def __init__(self, response: httpx2.Response) -> None:
        self.usage = Usage()
        self._response = response

    @property
    def tokens(self) -> Tokens:
        """What was used."""
        return Tokens(self.usage.prompt, self.usage.completion, cached=self.usage.cached)

    def _finish(self, ending: str) -> None:
        # a single word for all runners: that of OpenTelemetry
        self.finish_reason = "tool_call" if ending == TOOL_CALLS else ending


class WholeAnswer(_Answer):
    """An answer in one piece, passed on in OpenAI's own form."""

    headers = MappingProxyType({"content-type": "application/json"})

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer; raises AnswerError if it is none."""
        body = bytearray()
        async for piece in self._response.aiter_bytes():
            body += piece
            if len(body) > MAX_WHOLE_BYTES:
                raise AnswerError("it sent an answer that is too long")
        completion = _whole(bytes(body), self._response, self.usage)
        (choice,) = completion["choices"]
        self.begun = True
        self.text_bytes = len(str(choice["message"].get("content") or "").encode(errors="replace"))
        self._finish(choice["finish_reason"])
        yield json.dumps(completion).encode()


class StreamedAnswer(_Answer):
    """An answer as a stream of well-formed chunks that ends only if the answer is complete.

    The finish reason, the tool calls and the usage come at the end, each once. Raises AnswerError
    where the answer is none or breaks off. The usage until then is passed on before that.
    """

    headers = MappingProxyType({"content-type": "text/event-stream"})

    def __init__(self, response: httpx2.Response, on_piece: Callable[[], None]) -> None:
        """Read `response`; `on_piece` is called whenever the model has sent something."""
        super().__init__(response)
        self._on_piece = on_piece
        self._reader = EventReader()
        self._chunks = _Chunks(self.usage)
        self._received = response.aiter_bytes()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the chunks as server-sent events."""
        try:
            async for event in self._events():
                for chunk in self._chunks.take(event):
                    self._on_piece()
                    self.begun = True
                    text = chunk["choices"][0]["delta"].get("content") or ""
                    self.text_bytes += len(text.encode(errors="replace"))
                    yield _encoded(chunk)
                if self._chunks.done:
                    break
            ends = self._chunks.end()
        except (AnswerError, httpx2.HTTPError) as error:
            if usage := self._chunks.usage_chunk():
                yield _encoded(usage)
            if isinstance(error, (AnswerError, httpx2.TimeoutException)):
                raise
            said = f"{type(error).__name__} {error}".strip()
            raise AnswerError(f"the connection failed within its answer: {said}") from error
        self.begun = True
        self._finish(self._chunks.ending)
        for chunk in ends:
            yield _encoded(chunk)
        yield b"data: [DONE]\n\n"
        with suppress(httpx2.HTTPError):
            async for _ in self._received:
                pass  # read to its end, the connection can be used again

    async def _events(self) -> AsyncIterator[Event]:
        """Yield the events of a stream; a whole completion is one, and anything else is refused."""
        begun, streams = b"", None
        async for piece in self._body():
            data = piece
            if not streams:
                data = begun = begun + piece
                streams = _is_stream(begun[:_SHOWN_BYTES])
                if len(begun) > MAX_WHOLE_BYTES:
                    raise AnswerError("it sent an answer that is too long, and no stream")
            for event in self._reader.feed(data) if streams else ():
                yield event
        if not streams:
            yield Event(json.dumps(_whole(begun, self._response, self.usage)))
            yield Event(_DONE)
            return
        for event in self._reader.end():
            yield event
        if self._chunks.empty:
            raise AnswerError(_no_answer(begun, self._response))

    async def _body(self) -> AsyncIterator[bytes]:
        """Yield the body; a connection that is lost after the answer's end does no harm."""
        try:
            async for piece in self._received:
                yield piece
        except httpx2.HTTPError:
            if self._chunks.reason is None:
                raise
            self._reader = EventReader()  # half an event is none


class _Chunks:
    """Gathers the chunks of one answer, and returns those that can be passed on."""

    def __init__(self, usage: Usage) -> None:
        self.done = False
        """Whether the server has closed the stream."""
        self.empty = True
        """Whether no choice has come."""
        self.reason: str | None = None
        """The finish reason, once it came."""
        self._calls = ToolCalls()
        self._usage = usage
        self._thinking = InlineThinking()
        self._head: dict[str, Any] = {"id": "", "created": 0, "model": ""}

    @property
    def ending(self) -> str:
        """How the complete answer ended."""
        return settled(self.reason, self._calls)

    def take(self, event: Event) -> list[JsonObject]:
        """Return the chunks that an event adds to the answer."""
        if event.data.strip().startswith(_DONE):
            self.done = True
            return []
        chunk = _object(event)
        self._usage.read(chunk)
        choice = choice_of(chunk)
        if choice is None:
            return []
        for name in ("id", "model"):
            if isinstance(chunk.get(name), str) and chunk[name]:
                self._head[name] = chunk[name]
        self._head["created"] = count_of(chunk.get("created")) or self._head["created"]
        deltas = [*self._deltas(choice)]
        if self.empty and not deltas:
            deltas = [{"role": "assistant"}]
        self.empty = False
        self.reason = ending_of(choice.get("finish_reason")) or self.reason
        return [self._chunk(delta) for delta in deltas]

    def end(self) -> list[JsonObject]:
        """Return the last chunks; raises AnswerError for an incomplete answer."""
        if self.empty:
            raise AnswerError("it sent no answer")
        if self.reason is None and not self.done:
            raise AnswerError("its answer broke off: it has no finish reason")
        chunks = [self._chunk({name: text}) for name, text in self._thinking.end()]
        if self._calls:
            listed = self._calls.as_list(str(self._head["id"]))
            calls = [{"index": number, **call} for number, call in enumerate(listed)]
            chunks.append(self._chunk({"tool_calls": calls}))
        chunks.append(self._chunk({}, self.ending))
        usage = self.usage_chunk()
        return [*chunks, usage] if usage else chunks

    def usage_chunk(self) -> JsonObject | None:
        """Return the chunk with the usage; None where it is not known."""
        if not self._usage:
            return None
        return {**self._chunk({}), "choices": [], "usage": self._usage.as_object()}

    def _deltas(self, choice: Any) -> Iterator[JsonObject]:
        # some servers send the whole message, alone or besides the pieces
        whole = choice.get("delta") is None and self.empty
        delta = part_of(choice, "message" if whole else "delta")
        self._calls.take(delta)
        kept = {
            name: delta[name]
            for name in _KEPT_IN_DELTA
            if isinstance(delta.get(name), str) and delta[name]
        }
        if kept:
            yield kept
        text = _text_of(delta.get("content"))
        if text:
            for name, piece in self._thinking.feed(text):
                yield {name: piece}

    def _chunk(self, delta: JsonObject, ending: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "finish_reason": ending}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def _whole(body: bytes, response: httpx2.Response, usage: Usage) -> dict[str, Any]:
    """Return a body as a completion, and add what it used to `usage`."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise AnswerError(_no_answer(body, response)) from None
    return completion_of(answer, usage)


def _no_answer(body: bytes, response: httpx2.Response) -> str:
    text = body[:_SHOWN_BYTES].decode(errors="replace").strip()
    if not text:
        return "it sent an empty answer"
    kind = response.headers.get("content-type", "").partition(";")[0] or "something"
    return f"it sent {kind} that holds no answer: {shown(text)}"


def _is_stream(begun: bytes) -> bool | None:
    """Whether a body is a stream of events; None while that isn't certain."""
    text = begun.removeprefix(b"\xef\xbb\xbf").lstrip()
    if len(text) < max(map(len, _FIELDS)) and any(field.startswith(text) for field in _FIELDS):
        return None
    return text.startswith(_FIELDS)


def _object(event: Event) -> JsonObject:
    try:
        value = json.loads(event.data)
    except ValueError:
        raise AnswerError(f"it sent an event that is no JSON: {shown(event.data)}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AnswerError(f"it sent an event that is no object: {shown(value)}")
    if event.name == "error":
        raise_error({"error": value.get("error") or value})
    return value


def _text_of(content: object) -> str:
    """Return the text of a delta, which some servers send as a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    raise AnswerError(f"its text is none: {shown(content)}")


def _encoded(chunk: JsonObject) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()
