"""The functions of expressions: those of CEL, and of its library for texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from celeriac.domain.errors import ExpressionError
from celeriac.domain.expressions.values import (
    ResultsReference,
    Work,
    in_range,
    is_number,
    kind_of,
)
from celeriac.kit.json_types import JsonValue

_MAX_NUMBER_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Function:
    """A function; `arguments` are the fewest and the most that it takes, without its object."""

    call: Callable[..., JsonValue]
    arguments: tuple[int, int]
    is_method: bool
    returns: str | None = None
    """The kind of its value, if it is always the same: bool, number, string or list."""


def _text(value: JsonValue, name: str) -> str:
    if not isinstance(value, str):
        raise ExpressionError(f"{name} needs a text, not {kind_of(value)}")
    return value


def _integer(value: JsonValue, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ExpressionError(f"{name} needs an integer, not {kind_of(value)}")
    return value


def _size(work: Work, value: JsonValue) -> int:
    work.spend()
    if isinstance(value, ResultsReference):
        return value.count
    if isinstance(value, str | list | dict):
        return len(value)
    raise ExpressionError(f"size needs a text, a list or an object, not {kind_of(value)}")


def _int(work: Work, value: JsonValue) -> JsonValue:
    work.spend()
    if is_number(value):
        return in_range(int(value))
    text = _text(value, "int")
    if len(text) <= _MAX_NUMBER_CHARACTERS and text.lstrip("+-").isdecimal() and text.isascii():
        try:
            return in_range(int(text))
        except ValueError:
            pass
    raise ExpressionError("int needs a text with an integer")


def _double(work: Work, value: JsonValue) -> JsonValue:
    work.spend()
    if is_number(value):
        return float(value)
    text = _text(value, "double")
    try:
        if len(text) <= _MAX_NUMBER_CHARACTERS and "_" not in text:
            return in_range(float(text))
    except ValueError:
        pass
    raise ExpressionError("double needs a text with a number")


def _string(work: Work, value: JsonValue) -> str:
    work.spend()
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, int):
        return str(value)
    raise ExpressionError(f"string needs a text, a number, true or false, not {kind_of(value)}")


def _bool(work: Work, value: JsonValue) -> bool:
    work.spend()
    if isinstance(value, bool):
        return value
    if value in {"true", "True", "TRUE", "t", "1"}:
        return True
    if value in {"false", "False", "FALSE", "f", "0"}:
        return False
    raise ExpressionError('bool needs "true" or "false"')


def _of_texts(name: str, ask: Callable[[str, str], JsonValue]) -> Callable[..., JsonValue]:
    def call(work: Work, text: JsonValue, other: JsonValue) -> JsonValue:
        one, two = _text(text, name), _text(other, name)
        work.text(len(one) + len(two))
        return ask(one, two)

    return call


def _of_text(name: str, change: Callable[[str], str]) -> Callable[..., JsonValue]:
    def call(work: Work, text: JsonValue) -> JsonValue:
        work.text(len(_text(text, name)))
        return change(text)

    return call


def _split(work: Work, text: JsonValue, separator: JsonValue) -> JsonValue:
    one, two = _text(text, "split"), _text(separator, "split")
    work.text(len(one))
    count = one.count(two) + 1 if two else len(one)
    work.spend(count)
    return one.split(two) if two else list(one)


def _join(work: Work, texts: JsonValue, separator: JsonValue = "") -> JsonValue:
    if not isinstance(texts, list):
        raise ExpressionError(f"join needs a list of texts, not {kind_of(texts)}")
    work.spend(len(texts))
    parts = [_text(each, "join, for each element,") for each in texts]
    work.text(sum(map(len, parts)) + len(_text(separator, "join")) * len(parts))
    return separator.join(parts)


def _replace(work: Work, text: JsonValue, old: JsonValue, new: JsonValue) -> JsonValue:
    one, two, three = (_text(each, "replace") for each in (text, old, new))
    work.text(len(one))
    count = one.count(two)
    work.text(len(one) + count * max(0, len(three) - len(two)))
    return one.replace(two, three)


def _substring(work: Work, text: JsonValue, start: JsonValue, end: JsonValue = None) -> JsonValue:
    one, begin = _text(text, "substring"), _integer(start, "substring")
    stop = len(one) if end is None else _integer(end, "substring")
    if not 0 <= begin <= stop <= len(one):
        raise ExpressionError(f"substring is outside of a text of {len(one)} characters")
    work.text(stop - begin)
    return one[begin:stop]


def _in_ascii(change: Callable[[bytes], bytes]) -> Callable[[str], str]:
    # methods of bytes change only letters of ASCII; `str.translate` takes 50 times as long
    return lambda text: change(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _same(work: Work, value: JsonValue) -> JsonValue:
    work.spend()
    return value


FUNCTIONS: Final[Mapping[str, Function]] = {
    "size": Function(_size, (1, 1), is_method=False, returns="number"),
    "int": Function(_int, (1, 1), is_method=False, returns="number"),
    "double": Function(_double, (1, 1), is_method=False, returns="number"),
    "string": Function(_string, (1, 1), is_method=False, returns="string"),
    "bool": Function(_bool, (1, 1), is_method=False, returns="bool"),
    "dyn": Function(_same, (1, 1), is_method=False),
}
"""Functions by name, as in `size(list)`."""

METHODS: Final[Mapping[str, Function]] = {
    "size": Function(_size, (0, 0), is_method=True, returns="number"),
    "contains": Function(
        _of_texts("contains", lambda a, b: b in a), (1, 1), is_method=True, returns="bool"
    ),
    "startsWith": Function(
        _of_texts("startsWith", lambda a, b: a.startswith(b)), (1, 1), is_method=True,
        returns="bool",
    ),
    "endsWith": Function(
        _of_texts("endsWith", lambda a, b: a.endswith(b)), (1, 1), is_method=True, returns="bool"
    ),
    "indexOf": Function(
        _of_texts("indexOf", lambda a, b: a.find(b)), (1, 1), is_method=True, returns="number"
    ),
    "lowerAscii": Function(
        _of_text("lowerAscii", _in_ascii(bytes.lower)), (0, 0), is_method=True,
        returns="string",
    ),
    "upperAscii": Function(
        _of_text("upperAscii", _in_ascii(bytes.upper)), (0, 0), is_method=True,
        returns="string",
    ),
    "trim": Function(_of_text("trim", str.strip), (0, 0), is_method=True, returns="string"),
    "split": Function(_split, (1, 1), is_method=True, returns="list"),
    "join": Function(_join, (0, 1), is_method=True, returns="string"),
    "replace": Function(_replace, (2, 2), is_method=True, returns="string"),
    "substring": Function(_substring, (1, 2), is_method=True, returns="string"),
}  # fmt: skip
"""Functions by name that follow their object, as in `text.contains('a')`."""

MACROS: Final = frozenset({"all", "exists", "exists_one", "map", "filter"})
"""Methods that evaluate an expression for each element of a list, or each name of an object."""

ABSENT: Final[Mapping[str, Any]] = {
    "matches": "use contains, startsWith or endsWith, or test it in a task",
    "now": "a run could then not be repeated; give the time as input, or use run.created_at",
    "timestamp": "compare times as texts, or in a task",
    "duration": "calculate with seconds",
    "uint": "use int",
    "bytes": "use a text",
    "type": "there are no types here",
    "len": "write size(…)",
    "str": "write string(…)",
    "float": "write double(…)",
    "lower": "write lowerAscii()",
    "upper": "write upperAscii()",
    "strip": "write trim()",
    "startswith": "write startsWith(…)",
    "endswith": "write endsWith(…)",
}
"""Functions that people look for, each with the cure."""
