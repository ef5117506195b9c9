"""Templates: JSON values whose texts may hold `${{ expression }}`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson

from celeriac.domain.errors import ExpressionError
from celeriac.domain.expressions import (
    Expression,
    ExpressionSyntaxError,
    Work,
    compiled,
)
from celeriac.domain.expressions.tokens import Kind, tokens
from celeriac.domain.expressions.values import MAX_CHARACTERS
from celeriac.kit.json_types import JsonValue

BEGIN: Final = "${{"
END: Final = "}}"
MAX_PIECES: Final = 1_000
"""Expressions in one text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An expression in a text, and the offset of its first character."""

    expression: Expression
    offset: int


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A text with expressions, and the plain text around them in turn."""

    texts: tuple[str, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_one(self) -> bool:
        """Whether the text is one expression and nothing else, whose value keeps its type."""
        return len(self.pieces) == 1 and not any(map(str.strip, self.texts))

    def value(self, names: Mapping[str, JsonValue], work: Work) -> JsonValue:
        """Return the value of the one expression, or the text with the values in their places.

        In a text, null is empty; lists and objects are written as JSON. Raises ExpressionError.
        """
        if self.is_one:
            return self.pieces[0].expression.value(names, work)
        made = [self.texts[0]]
        for piece, after in zip(self.pieces, self.texts[1:], strict=True):
            made += [_written(piece.expression.value(names, work), work), after]
        work.text(sum(map(len, made)))
        return "".join(made)


def _written(value: JsonValue, work: Work) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    work.value(value)
    text = orjson.dumps(value).decode()
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"A value in a text is over {MAX_CHARACTERS:,} characters.")
    return text


_CACHED_CHARACTERS = 400
"""Longer texts are parsed each time: the cache must not hold documents."""


def text_template(text: str) -> TextTemplate:
    """Return the parsed text. `$${{` stands for `${{`. Raises ExpressionSyntaxError."""
    return _cached(text) if len(text) <= _CACHED_CHARACTERS else _parsed(text)


@lru_cache(maxsize=4_096)
def _cached(text: str) -> TextTemplate:
    return _parsed(text)


def _parsed(text: str) -> TextTemplate:
    texts: list[str] = []
    pieces: list[Piece] = []
    at, plain = 0, ""
    while (found := text.find(BEGIN, at)) >= 0:
        if found > at and text[found - 1] == "$":
            plain += text[at : found - 1] + BEGIN
            at = found + len(BEGIN)
            continue
        begin = found + len(BEGIN)
        if len(pieces) >= MAX_PIECES:
            raise ExpressionSyntaxError(f"a text has at most {MAX_PIECES:,} expressions", begin)
        end = _end(text, begin)
        written = text[begin:end]
        offset = begin + len(written) - len(written.lstrip())
        try:
            expression = compiled(written.strip())
        except ExpressionSyntaxError as error:
            raise ExpressionSyntaxError(error.message, offset + error.offset) from None
        texts.append(plain + text[at:found])
        pieces.append(Piece(expression, offset))
        at, plain = end + len(END), ""
    return TextTemplate((*texts, plain + text[at:]), tuple(pieces))


def _end(text: str, begin: int) -> int:
    """Return the offset of the `}}` that ends an expression, outside of texts and objects."""
    depth = 0
    try:
        for token in tokens(text, begin):
            if token.kind is not Kind.SIGN:
                continue
            if token.text == "}" and depth == 0 and text.startswith(END, token.offset):
                return token.offset
            depth += {"{": 1, "}": -1}.get(token.text, 0)
    except ExpressionSyntaxError as error:
        if text.find(END, begin) < 0:
            raise
        end = text.find(END, error.offset)
        return end if end >= 0 else text.find(END, begin)
    raise ExpressionSyntaxError("the expression has no end: add }}", begin)


def texts_of(
    value: JsonValue, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each text of a value that holds an expression, with its path."""
    if isinstance(value, str):
        if BEGIN in value:
            yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts_of(inner, (*path, name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from texts_of(inner, (*path, index))


def expressions_of(value: JsonValue) -> Iterator[Expression]:
    """Yield the expressions of a value's texts. Raises ExpressionSyntaxError."""
    for _, text in texts_of(value):
        for piece in text_template(text).pieces:
            yield piece.expression


def render(value: JsonValue, names: Mapping[str, JsonValue], work: Work | None = None) -> JsonValue:
    """Return a value with its expressions replaced by their values.

    A text that is one expression becomes that expression's value. Raises ExpressionError.
    """
    return _render(value, names, work or Work(), set())


def _render(
    value: JsonValue, names: Mapping[str, JsonValue], work: Work, placed: set[int]
) -> JsonValue:
    if isinstance(value, str):
        if BEGIN not in value:
            return value
        made = text_template(value).value(names, work)
        if id(made) in placed:  # the same data again: as JSON it is written out each time
            work.value(made)
        if isinstance(made, str | list | dict):
            placed.add(id(made))
        return made
    if isinstance(value, Mapping):
        return {name: _render(inner, names, work, placed) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_render(inner, names, work, placed) for inner in value]
    return value
