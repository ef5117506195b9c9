"""Cassettes as text: JSON lines, read strictly and written the same way each time."""

from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError

from celeriac.domain.agent.base import Strict
from celeriac.domain.cassette.format import (
    MAX_BYTES,
    MAX_INTERACTIONS,
    Cassette,
    Header,
    Interaction,
    dump_line,
)
from celeriac.domain.errors import CassetteInvalidError, TooLargeError
from celeriac.kit.json_bounds import has_more_values_than
from celeriac.kit.jsontypes import JsonValue, loads

MAX_DEPTH = 100
_MAX_LINES = 2 * MAX_INTERACTIONS + 2
"""Each interaction may have an empty line behind it."""

L = TypeVar("L", Header, Interaction)

_CURE = "Record it anew (`celeriac run TASK --record FILE`), or mend that line by hand."


def dump(cassette: Cassette) -> str:
    """Return the text of a cassette."""
    return dump_line(cassette.header) + "".join(map(dump_line, cassette.interactions))


def parse(content: str | bytes, *, max_values: int | None = None) -> Cassette:
    """Read the text of a cassette.

    `max_values` bounds the values and names of each line, for texts that anybody may have written.
    Raises CassetteInvalidError that names the line and what is wrong with it, and TooLargeError.
    """
    data = content.encode() if isinstance(content, str) else content
    if len(data) > MAX_BYTES:
        raise TooLargeError(
            f"The cassette has {len(data)} bytes; the limit is {MAX_BYTES}. Record a shorter run.",
            field="body",
            limit=MAX_BYTES,
        )
    if data.count(b"\n") > _MAX_LINES:
        raise TooLargeError(
            f"The cassette has more than {_MAX_LINES} lines, empty ones among them.",
            field="body",
            limit=_MAX_LINES,
        )
    lines = _lines(data, max_values)
    first = next(lines, None)
    if first is None:
        raise CassetteInvalidError(f"The cassette is empty. {_CURE}", field="line 1")
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
            f"Line {number} of the cassette is not valid JSON: {error}. {_CURE}", field=place
        ) from error
    if _too_deep(line, value):
        raise CassetteInvalidError(
            f"Line {number} of the cassette is nested deeper than {MAX_DEPTH} levels.", field=place
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise CassetteInvalidError(
            f"Line {number} of the cassette is no {_NAMES[model]}: {_first(error)}. {_CURE}",
            field=place,
        ) from error


_NAMES: dict[type[Strict], str] = {
    Header: 'header ({"celeriac_cassette": 1, …})',
    Interaction: 'interaction ({"provider": …, "request": …, "response": …})',
}


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]


def _too_deep(line: bytes, value: JsonValue) -> bool:
    if line.count(b"{") + line.count(b"[") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            inner += [child for child in children if isinstance(child, dict | list)]
        if not inner:
            return False
        level = inner
    return True
