"""Streams of model answers: server-sent events, cumulative and incremental deltas, thinking."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from celeriac.agents.gateway.completions import (
    AnswerError,
    ToolCalls,
    Usage,
    choice_of,
    completion_of,
    count_of,
    ending_of,
    pieces_of,
    raise_error,
    settled,
    shown,
    usage_of,
)
from celeriac.kit.json_types import JsonObject

MAX_EVENT_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLongError(Exception):
    """One event has more than `MAX_EVENT_BYTES`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data, never empty, and its name, empty where it has none."""

    data: str
    name: str = ""


class EventReader:
    """Cuts bytes, which may come in any pieces, into events.

    Events without data are none, a leading byte order mark is dropped, lines end with LF, CR or
    both, and bytes that are no UTF-8 become U+FFFD. Raises EventTooLongError.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that `chunk` completes."""
        data = self._rest + chunk
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return
            data, self._begun = data.removeprefix(_BOM), True
        # the LF of a CR LF may come with the next piece
        held = b"\r" if data.endswith(b"\r") else b""
        *lines, rest = (
            data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        self._rest = rest + held
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLongError
        for line in lines:
            yield from self._line(line)

    def end(self) -> Iterator[Event]:
        """Yield what the stream ended with, which some servers don't complete by an empty line."""
        line, self._rest = self._rest.rstrip(b"\r"), b""
        if line:
            yield from self._line(line)
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[Event]:
        if not line:
            data = b"\n".join(self._data).decode(errors="replace")
            name, self._name = self._name, ""
            self._data, self._size = [], 0
            if data.strip():
                yield Event(data, name)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
        elif field == b"event":
            self._name = value.decode(errors="replace")


_OPEN, _CLOSE = "<think>", "</think>"

Kind = Literal["content", "reasoning_content"]
Piece = tuple[Kind, str]


class InlineThinking:
    """Tells the thoughts of one answer from its text, however its pieces are cut.

    Only what an answer begins with counts: later tags are the text's own.
    """

    def __init__(self) -> None:
        self._state: Literal["begin", "thought", "gap", "text"] = "begin"
        self._held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield what is certain by now."""
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
            thought, closed, rest = text.partition(_CLOSE)
            if not closed:
                kept = _overlap(thought)
                thought, self._held = thought[: len(thought) - kept], thought[len(thought) - kept :]
                rest = ""
            else:
                self._state = "gap"
            if thought:
                yield "reasoning_content", thought
            text = rest
        if self._state == "gap":
            text = text.lstrip()
            if text:
                self._state = "text"
        if text and self._state == "text":
            yield from _as_text(text)

    def end(self) -> Iterator[Piece]:
        """Yield what was held back."""
        if self._held:
            kind: Kind = "reasoning_content" if self._state == "thought" else "content"
            yield kind, self._held
            self._held = ""


def _as_text(text: str) -> Iterator[Piece]:
    """Yield text; in two pieces where the model library would take it for a tag of its own."""
    cut = 1 if text in (_OPEN, _CLOSE) else 0
    if cut:
        yield "content", text[:cut]
    yield "content", text[cut:]


def _overlap(text: str) -> int:
    """Return how many characters at the end of `text` may begin the closing tag."""
    longest = min(len(text), len(_CLOSE) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(_CLOSE[:n])), 0)


MAX_WHOLE_BYTES = 16 * 1024 * 1024
"""An answer that is no stream may have so many bytes."""

_SHOWN_BYTES = 2_000
_DONE = "[DONE]"
_FIELDS = (b"data", b"event", b"id", b"retry", b":")
_LONGEST_FIELD = max(map(len, _FIELDS))
_KEPT_IN_DELTA = ("role", "refusal", "reasoning_content", "reasoning")


class AnswerStream(httpx2.AsyncByteStream):
    """Passes an answer on as a stream of well-formed chunks that ends only if the answer is whole.

    The finish reason, the tool calls and the usage come at the end, each once. Raises AnswerError
    where the answer is none or breaks off; what it had used by then is passed on before that.
    """

    def __init__(self, response: httpx2.Response, heard: Callable[[], None]) -> None:
        """Read `response`; `heard` is called whenever the model has said something."""
        self._response = response
        self._heard = heard
        self._reader = EventReader()
        self._answer = _Answer()
        self._cut = False
        self._pieces = response.aiter_bytes()
        self._chunks = self._passed_on()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the answer's chunks as server-sent events; once, whoever asks for them again."""
        return self._chunks

    async def _passed_on(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._events():
                for chunk in self._answer.take(event):
                    self._heard()
                    yield _encoded(chunk)
                if self._answer.done:
                    break
            ends = self._answer.end()
        except (AnswerError, EventTooLongError, httpx2.HTTPError) as error:
            if usage := self._answer.usage_chunk():
                yield _encoded(usage)
            raise self._failed(error) from error
        for chunk in ends:
            yield _encoded(chunk)
        yield b"data: [DONE]\n\n"
        await self._drain()

    async def _drain(self) -> None:
        """Read what is left, so that the connection can be used again."""
        with suppress(httpx2.HTTPError):
            async for _ in self._pieces:
                pass

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()

    def _failed(self, error: Exception) -> Exception:
        match error:
            case EventTooLongError():
                return AnswerError("it sent an event that is too long")
            case httpx2.TimeoutException() | AnswerError():
                return error
            case _:
                said = f"{type(error).__name__} {error}".strip()
                return AnswerError(f"the connection failed within its answer: {said}")

    async def _events(self) -> AsyncIterator[Event]:
        """Yield the events of a stream; a whole completion is one, and anything else is refused."""
        begun, streams = b"", None
        async for piece in self._received():
            data = piece
            if not streams:
                data = begun = begun + piece
                streams = _is_stream(begun[:_SHOWN_BYTES])
                if len(begun) > MAX_WHOLE_BYTES:
                    raise AnswerError("it sent an answer that is too long, and no stream")
            for event in self._reader.feed(data) if streams else ():
                yield event
        if not streams:
            yield Event(json.dumps(_chunk_of(self._whole(begun))))
            yield Event(_DONE)
            return
        for event in () if self._cut else self._reader.end():
            yield event
        if self._answer.empty:
            raise AnswerError(self._no_answer(begun))

    async def _received(self) -> AsyncIterator[bytes]:
        """Yield the body; a connection that is lost after the answer's end does no harm."""
        try:
            async for piece in self._pieces:
                yield piece
        except httpx2.HTTPError:
            if not self._answer.ended:
                raise
            self._cut = True

    def _whole(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            raise AnswerError(self._no_answer(body)) from None
        if isinstance(answer, dict):
            self._answer.usage.take(usage_of(answer).as_object())
        return completion_of(answer)

    def _no_answer(self, body: bytes) -> str:
        text = body[:_SHOWN_BYTES].decode(errors="replace").strip()
        if not text:
            return "it sent an empty answer"
        kind = self._response.headers.get("content-type", "").partition(";")[0] or "something"
        return f"it sent {kind} that holds no answer: {shown(text)}"


class _Answer:
    """Gathers one answer, and says what of it can be passed on."""

    def __init__(self) -> None:
        self.done = False
        """Whether the server said that it has no more."""
        self.empty = True
        """Whether no choice came."""
        self._ending: str | None = None
        self._calls = ToolCalls()
        self.usage = Usage()
        """What it used, as far as the server has said."""
        self._thinking = InlineThinking()
        self._head: dict[str, Any] = {"id": "", "created": 0, "model": ""}

    @property
    def ended(self) -> bool:
        """Whether the answer has said how it ended."""
        return self._ending is not None

    def take(self, event: Event) -> list[JsonObject]:
        """Return the chunks that an event adds to the answer."""
        if event.data.strip().startswith(_DONE):
            self.done = True
            return []
        chunk = _object(event)
        self.usage.take(usage_of(chunk).as_object())
        choice = choice_of(chunk)
        if choice is None:
            return []
        self._introduce(chunk)
        deltas = [*self._deltas(choice)]
        if self.empty:
            deltas = deltas or [{"role": "assistant"}]
        self.empty = False
        self._ending = ending_of(choice.get("finish_reason")) or self._ending
        return [self._chunk(delta) for delta in deltas]

    def end(self) -> list[JsonObject]:
        """Return the last chunks; raises AnswerError for half an answer."""
        if self.empty:
            raise AnswerError("it sent no answer")
        if self._ending is None and not self.done:
            raise AnswerError("its answer broke off: it has no finish reason")
        chunks = [self._chunk({name: text}) for name, text in self._thinking.end()]
        if self._calls:
            listed = self._calls.as_list(str(self._head["id"]))
            calls = [{"index": number, **call} for number, call in enumerate(listed)]
            chunks.append(self._chunk({"tool_calls": calls}))
        chunks.append(self._chunk({}, settled(self._ending, self._calls)))
        usage = self.usage_chunk()
        return [*chunks, usage] if usage else chunks

    def usage_chunk(self) -> JsonObject | None:
        """Return the chunk that tells what was used; None where that isn't known."""
        if not self.usage:
            return None
        return {**self._chunk({}), "choices": [], "usage": self.usage.as_object()}

    def _deltas(self, choice: Any) -> Iterator[JsonObject]:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # some servers send the whole message, alone or besides the pieces
            whole = choice.get("message") if delta is None and self.empty else None
            delta = whole if isinstance(whole, dict) else {}
        self._calls.take(pieces_of(delta))
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

    def _introduce(self, chunk: JsonObject) -> None:
        for name in ("id", "model"):
            if isinstance(chunk.get(name), str) and chunk[name]:
                self._head[name] = chunk[name]
        self._head["created"] = count_of(chunk.get("created")) or self._head["created"]

    def _chunk(self, delta: JsonObject, ending: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "finish_reason": ending}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def _is_stream(begun: bytes) -> bool | None:
    """Whether a body is a stream of events; None while that isn't certain."""
    text = begun.removeprefix(b"\xef\xbb\xbf").lstrip()
    if len(text) < _LONGEST_FIELD and any(field.startswith(text) for field in _FIELDS):
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
    """Return the text of a delta, which some servers write as a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    raise AnswerError(f"its text is none: {shown(content)}")


def _chunk_of(completion: dict[str, Any]) -> JsonObject:
    """Return a whole completion as a chunk."""
    (choice,) = completion["choices"]
    return {
        **completion,
        "choices": [{**choice, "message": None, "delta": choice["message"]}],
    }


def _encoded(chunk: JsonObject) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()
