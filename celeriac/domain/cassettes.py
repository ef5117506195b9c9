"""The format of cassettes: JSON lines with a header, then one request with its answer per line.

Reading is strict, writing is deterministic. Bodies are readable, and sent exactly as recorded.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from celeriac.domain.base import Strict
from celeriac.domain.errors import CassetteInvalidError, TooLargeError
from celeriac.kit.json_types import JsonValue, dumps, has_more_values_than, is_deeper, loads
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted

EVENT_STREAM = "text/event-stream"

_EVENT = re.compile(r"(?:event: (?P<event>[\w.-]{1,100})\n)?data: (?P<data>\{[^\n]*\})\n\n")
"""An event whose data is one JSON object, in the form of model providers."""

_EVENT_END = re.compile(r"(?<=\n\n)|(?<=\r\n\r\n)")


def _decodes(text: str) -> str:
    b64decode(text, validate=True)
    return text


_Base64 = Annotated[str, AfterValidator(_decodes)]


class JsonEvent(Strict):
    """A server-sent event whose data is a JSON object."""

    event: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,100}$")] | None = None
    data: dict[str, JsonValue]


StreamItem = JsonEvent | str
"""An event, or other text of the stream."""


class Body(Strict):
    """The body of a message in one of four forms; all None if it is empty."""

    body: JsonValue = None
    """A JSON value."""
    stream: Annotated[tuple[StreamItem, ...], Field(strict=False, fail_fast=True)] | None = None
    """Server-sent events."""
    text: str | None = None
    base64: _Base64 | None = None
    """Bytes that are not UTF-8."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = (self.body, self.stream, self.text, self.base64)
        if sum(form is not None for form in forms) > 1:
            raise ValueError("only one of body, stream, text and base64 is allowed")
        return self


def read_body(content: bytes, media: str) -> dict[str, JsonValue]:
    """Return the fields of a `Body` for `content` of the media type `media`."""
    if not content:
        return {}
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(content).decode()}
    if media.startswith(EVENT_STREAM):
        return {"stream": tuple(_item(part) for part in _EVENT_END.split(text) if part)}
    try:
        value = loads(text)
    except ValueError:
        value = None
    return {"text": text} if value is None else {"body": value}


def write_body(body: Body) -> list[bytes]:
    """Return the chunks of the body: one for each event of a stream."""
    if body.stream is not None:
        return [_written(item).encode() for item in body.stream]
    if body.text is not None:
        return [body.text.encode()]
    if body.base64 is not None:
        return [b64decode(body.base64)]
    return [] if body.body is None else [dumps(body.body).encode()]


def _item(text: str) -> StreamItem:
    found = _EVENT.fullmatch(text)
    if found is None:
        return text
    try:
        return JsonEvent(event=found["event"], data=loads(found["data"]))
    except ValueError:
        return text


def _written(item: StreamItem) -> str:
    if isinstance(item, str):
        return item
    name = f"event: {item.event}\n" if item.event else ""
    return f"{name}data: {dumps(item.data)}\n\n"


MAX_BYTES = 32 * 1024 * 1024
"""The largest cassette, in bytes of text."""

MAX_INTERACTIONS = 10_000

REQUEST_HEADERS = frozenset({"anthropic-beta", "anthropic-version", "content-type", "openai-beta"})
"""The request headers that are recorded, for readers; none holds a key."""

RESPONSE_HEADERS = frozenset(
    {"content-type", "request-id", "retry-after", "retry-after-ms", "x-request-id"}
    | {"x-should-retry"}
)
"""The response headers that are recorded and replayed."""

_Value = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=1_000)]
_Short = Annotated[str, StringConstraints(max_length=300)]


def _only(known: frozenset[str]) -> AfterValidator:
    def check(headers: Mapping[str, str]) -> Mapping[str, str]:
        for name in headers:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a recorded header; use {', '.join(sorted(known))}"
                )
        return headers

    return AfterValidator(check)


class Header(Strict):
    """The first line: the format, and the recorded execution."""

    celeriac_cassette: Literal[1]
    """The version of the format."""
    task: _Short = ""
    agent: _Short = ""
    runner: _Short = ""
    execution_id: Annotated[UUID, Field(strict=False)] | None = None
    recorded_at: Annotated[datetime, Field(strict=False)] | None = None
    complete: bool = True
    """False if the recording reached a limit: the last calls are missing."""


class Request(Body):
    """A request to a model provider. `path` is relative to the provider's base URL."""

    method: Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,20}$")]
    path: Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]*$", max_length=2_000)]
    headers: Annotated[dict[str, _Value], _only(REQUEST_HEADERS)] = Field(default_factory=dict)


class Response(Body):
    """A provider's answer."""

    status: int = Field(ge=200, le=599)
    headers: Annotated[dict[str, _Value], _only(RESPONSE_HEADERS)] = Field(default_factory=dict)
    broken: bool = False
    """Whether the connection was lost before the end of the answer."""


class Interaction(Strict):
    """One recorded request with its answer."""

    attempt: int = Field(default=1, ge=1)
    """The number of the attempt that made the request."""
    provider: _Short
    """The provider's name: `openai`, `anthropic` or one of the settings."""
    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class Cassette:
    """A cassette; interactions are in the order of their requests."""

    header: Header
    interactions: tuple[Interaction, ...] = ()

    def extended(self, more: Sequence[Interaction], *, complete: bool) -> "Cassette":
        """Return the cassette with `more` interactions, as far as the limits allow.

        `complete` is False if interactions are missing after `more`; then no more are added.
        """
        if not self.header.complete:
            return self
        cut = self.header.model_copy(update={"complete": False})
        size = _size(cut) + sum(map(_size, self.interactions))
        kept = list(self.interactions)
        for each in more:
            size += _size(each)
            if size > MAX_BYTES or len(kept) >= MAX_INTERACTIONS:
                complete = False
                break
            kept.append(each)
        return Cassette(self.header if complete else cut, tuple(kept))


def dump_line(line: Header | Interaction) -> str:
    """Return one line of a cassette, with its newline; default values are left out."""
    values = line.model_dump(mode="json", exclude_defaults=True)
    for name in ("request", "response"):
        message = values.get(name, {})
        for form in Body.model_fields:
            if form in message:
                message[form] = message.pop(form)  # behind what is short
    return dumps(values) + "\n"


def _size(line: Header | Interaction) -> int:
    return len(dump_line(line).encode())


MAX_DEPTH = 100
_MAX_LINES = 2 * MAX_INTERACTIONS + 2
"""Each interaction may have an empty line behind it."""

L = TypeVar("L", Header, Interaction)

_HINT = "Record it again (`celeriac run TASK --record-to FILE`), or correct the line."


def dump(cassette: Cassette) -> str:
    """Return the text of a cassette."""
    return dump_line(cassette.header) + "".join(map(dump_line, cassette.interactions))


def parse(content: str | bytes, *, max_values: int | None = None) -> Cassette:
    """Read the text of a cassette.

    `max_values` limits the values and names of each line, for untrusted texts. Raises
    CassetteInvalidError that names the line and the fault, and TooLargeError.
    """
    data = content.encode() if isinstance(content, str) else content
    if len(data) > MAX_BYTES:
        raise TooLargeError(
            f"The cassette has {counted(len(data), 'byte')}; the limit is {MAX_BYTES:,}. "
            "Record a shorter run.",
            field="body",
            limit=MAX_BYTES,
        )
    if data.count(b"\n") > _MAX_LINES:
        raise TooLargeError(
            f"The cassette has more than {_MAX_LINES} lines, including empty ones.",
            field="body",
            limit=_MAX_LINES,
        )
    lines = _lines(data, max_values)
    first = next(lines, None)
    if first is None:
        raise CassetteInvalidError(f"The cassette is empty. {_HINT}", field="line 1")
    header = _read(Header, *first)
    return Cassette(header, tuple(_read(Interaction, number, line) for number, line in lines))


def _lines(data: bytes, max_values: int | None) -> Iterator[tuple[int, bytes]]:
    count = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        count += 1
        if count > MAX_INTERACTIONS + 1:
            raise TooLargeError(
                f"The cassette has more than {MAX_INTERACTIONS} lines. Record a shorter run.",
                field=f"line {number}",
                limit=MAX_INTERACTIONS,
            )
        if max_values is not None and has_more_values_than(line, max_values):
            raise TooLargeError(
                f"Line {number} of the cassette has more than {max_values} values.",
                field=f"line {number}",
                limit=max_values,
            )
        yield number, line


def _read(model: type[L], number: int, line: bytes) -> L:
    place = f"line {number}"
    try:
        value = loads(line)
    except ValueError as error:
        raise CassetteInvalidError(
            f"Line {number} of the cassette is not valid JSON: {error}. {_HINT}", field=place
        ) from error
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise CassetteInvalidError(
            f"Line {number} of the cassette is nested deeper than {MAX_DEPTH} levels.", field=place
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = ": ".join(filter(None, first_fault(error)))
        raise CassetteInvalidError(
            f"Line {number} of the cassette is not {_NAMES[model]}: {fault}. {_HINT}", field=place
        ) from error


_NAMES: dict[type[Strict], str] = {
    Header: 'a header ({"celeriac_cassette": 1, …})',
    Interaction: 'an interaction ({"provider": …, "request": …, "response": …})',
}


@dataclass(frozen=True, slots=True)
class CassetteSummary:
    """A stored cassette without its interactions."""

    id: UUID
    """The id of the execution that recorded it, or a new one."""
    workspace_id: UUID
    owner_id: UUID
    name: str
    execution_id: UUID | None
    """The execution that recorded it; None if it was uploaded."""
    interactions: int
    size: int
    """Size of its text in bytes."""
    complete: bool
    """False if the recording reached a limit."""
    created_at: datetime
