"""Bodies of recorded messages: as readable as they can be kept, and exact in what they mean."""

import re
from base64 import b64decode, b64encode
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from celeriac.domain.agent.base import Strict
from celeriac.kit.jsontypes import JsonValue, dumps, loads

EVENT_STREAM = "text/event-stream"

_EVENT = re.compile(r"(?:event: (?P<event>[\w.-]{1,100})\n)?data: (?P<data>\{[^\n]*\})\n\n")
"""An event whose data is one JSON object, as model providers write them."""

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
"""An event, or text that is none, as it came."""


class Body(Strict):
    """The body of a message, in the one of four forms that suits it; all None for an empty one."""

    body: JsonValue = None
    """A JSON value."""
    stream: Annotated[tuple[StreamItem, ...], Field(strict=False, fail_fast=True)] | None = None
    """Server-sent events."""
    text: str | None = None
    base64: _Base64 | None = None
    """Bytes that are no text."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = (self.body, self.stream, self.text, self.base64)
        if sum(form is not None for form in forms) > 1:
            raise ValueError("give one of body, stream, text and base64, not several")
        return self


def read_body(content: bytes, media: str) -> dict[str, JsonValue]:
    """Return the fields of a `Body` that stand for `content` of the media type `media`."""
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
    """Return the chunks in which the body is sent: each event of a stream is one."""
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
