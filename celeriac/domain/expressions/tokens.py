"""Splits a CEL expression into tokens."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from celeriac.kit.json_types import INT64


class ExpressionSyntaxError(ValueError):
    """A text is not an expression; `offset` is the place in it, from 0."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


class Kind(Enum):
    """The kind of a token."""

    NAME = auto()
    VALUE = auto()
    """A number or a text; `value` has it."""
    SIGN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token; `text` as it is written, `value` that of a literal."""

    kind: Kind
    text: str
    offset: int
    value: Any = None


RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var "
    "void while".split()
)
"""Names that CEL keeps for later."""

WORDS = frozenset({"true", "false", "null", "in"})

_TOKEN = re.compile(
    r"""
      (?P<space>(?:\s+|//[^\n]*)+)
    | (?P<text>[rRbB]{0,2}(?:'''|\"\"\"|'|"))
    | (?P<number>0[xX][0-9a-fA-F]+[uU]?
        |(?:[0-9]+\.[0-9]+|[0-9]+(?=[eE][-+]?[0-9])|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
        |[0-9]+[uU]?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}=&|])
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(
    r"\\(?:(?P<one>[abfnrtv\\?\"'`])|[xX](?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>[0-9a-fA-F]{8})|(?P<octal>[0-3][0-7]{2}))"
)
_ONE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def tokens(text: str, at: int = 0) -> Iterator[Token]:
    """Yield the tokens of `text` from `at`, and an end. Raises ExpressionSyntaxError."""
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ExpressionSyntaxError(f"{text[at]!r} has no meaning here", at)
        if found.lastgroup == "text":
            value, end = _string(text, at, found[0])
            yield Token(Kind.VALUE, text[at:end], at, value)
            at = end
            continue
        if found.lastgroup == "number":
            yield Token(Kind.VALUE, found[0], at, _number(found[0], at))
        elif found.lastgroup == "name":
            yield Token(Kind.NAME, found[0], at)
        elif found.lastgroup == "sign":
            yield Token(Kind.SIGN, found[0], at)
        at = found.end()
    yield Token(Kind.END, "", at)


def _number(written: str, offset: int) -> int | float:
    if written[-1] in "uU":
        raise ExpressionSyntaxError(f"there are no unsigned numbers: write {written[:-1]}", offset)
    if written[:2].lower() == "0x":
        number = int(written, 16)
    elif written.isdigit():
        number = int(written) if len(written) <= 20 else INT64.stop  # noqa: PLR2004 - digits
    else:
        fraction = float(written)
        if math.isinf(fraction):
            raise ExpressionSyntaxError("this number is too large", offset)
        return fraction
    # its negative may be the smallest integer
    if number > INT64.stop:
        raise ExpressionSyntaxError("this integer is beyond 64 bits", offset)
    return number


def _string(text: str, start: int, opening: str) -> tuple[str, int]:
    """Return a text and the offset behind it."""
    quote = opening.lstrip("rRbB")
    marks = opening.removesuffix(quote).lower()
    if "b" in marks:
        raise ExpressionSyntaxError("there are no bytes: remove the b", start)
    at = begin = start + len(opening)
    while not text.startswith(quote, at):
        if at >= len(text) or (text[at] == "\n" and len(quote) == 1):
            raise ExpressionSyntaxError("this text has no end: add the second quote", start)
        at += 2 if text[at] == "\\" and not marks else 1
    if at > len(text):
        raise ExpressionSyntaxError("this text has no end: add the second quote", start)
    inner = text[begin:at]
    return inner if marks else _unescaped(inner, begin), at + len(quote)


def _unescaped(text: str, offset: int) -> str:
    def character(found: re.Match[str]) -> str:
        if found["one"]:
            return _ONE.get(found["one"], found["one"])
        digits, base = (found["octal"], 8) if found["octal"] else (found["x"], 16)
        number = int(digits or found["u"] or found["U"], base)
        if number > _LAST_CHARACTER or number in _SURROGATES:
            raise ExpressionSyntaxError(f"{found[0]} is no character", offset + found.start())
        return chr(number)

    pieces, at = [], 0
    while (slash := text.find("\\", at)) >= 0:
        found = _ESCAPE.match(text, slash)
        if found is None:
            raise ExpressionSyntaxError(
                f"{text[slash : slash + 2]} is no escape: write two backslashes", offset + slash
            )
        pieces += [text[at:slash], character(found)]
        at = found.end()
    return "".join([*pieces, text[at:]])
