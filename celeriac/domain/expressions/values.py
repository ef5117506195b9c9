"""The values of expressions, which are those of JSON: comparison, arithmetic, and their cost."""

import math
from collections.abc import Callable
from typing import Any, Final

from celeriac.domain.errors import ExpressionError
from celeriac.kit.json_types import INT64, JsonValue

MAX_WORK: Final = 500_000
"""Limit of one evaluation in units of work; a unit is about a microsecond."""

MAX_CHARACTERS: Final = 1_000_000
"""Limit of every text that an expression makes."""

_CHARACTERS_OF_A_UNIT = 256
_TOO_LARGE = "results that are too large for an expression; read them in a task with ctx.results"


class ResultsReference(dict[str, Any]):
    """Stands for the results of a map that are too large to be handed on.

    As JSON it is `{"results_of": {"run": …, "step": …, "count": …}}`.
    """

    def __init__(self, run: str, step: str, count: int) -> None:
        super().__init__(results_of={"run": run, "step": step, "count": count})
        self.count = count


class Work:
    """The work that an evaluation, or several, may still do. It is counted before it is done."""

    __slots__ = ("_left",)

    def __init__(self, most: int = MAX_WORK) -> None:
        self._left = most

    def spend(self, units: int = 1) -> None:
        """Count work; raises ExpressionError if the limit is exceeded."""
        self._left -= units
        if self._left < 0:
            raise ExpressionError(
                "The expression works too long on this data; do it in a task instead."
            )

    def text(self, characters: int) -> None:
        """Count the work of reading or making a text; raises ExpressionError."""
        if characters > MAX_CHARACTERS:
            raise ExpressionError(
                f"A text in the expression is over {MAX_CHARACTERS:,} characters; shorten it."
            )
        self.spend(1 + characters // _CHARACTERS_OF_A_UNIT)

    def value(self, value: JsonValue) -> None:
        """Count every part of a value, as often as it occurs."""
        stack = [value]
        while stack:
            each = stack.pop()
            if isinstance(each, str):
                self.spend(1 + len(each) // _CHARACTERS_OF_A_UNIT)
            elif isinstance(each, list):
                self.spend(1 + len(each))
                stack.extend(each)
            elif isinstance(each, dict):
                characters = sum(map(len, each))
                self.spend(1 + 2 * len(each) + characters // _CHARACTERS_OF_A_UNIT)
                stack.extend(each.values())


def kind_of(value: JsonValue) -> str:
    """Return the kind of a value in words, such as `a number`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
    return _TOO_LARGE if isinstance(value, ResultsReference) else "an object"


def is_number(value: JsonValue) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(one: JsonValue, other: JsonValue, work: Work) -> bool:
    """Whether two values are equal. Numbers are equal by value, true is not 1."""
    work.spend()
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            equal(a, b, work) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            name in other and equal(value, other[name], work) for name, value in one.items()
        )
    if isinstance(one, str) and isinstance(other, str):
        work.text(min(len(one), len(other)))
    return bool(one == other)


def less(one: JsonValue, other: JsonValue, work: Work) -> bool:
    """Whether one value is before the other; raises ExpressionError if they have no order."""
    if is_number(one) and is_number(other):
        return bool(one < other)
    if isinstance(one, str) and isinstance(other, str):
        work.text(min(len(one), len(other)))
        return one < other
    if isinstance(one, bool) and isinstance(other, bool):
        return one < other
    raise ExpressionError(f"{kind_of(one)} and {kind_of(other)} can't be compared by size")


def contains(container: JsonValue, value: JsonValue, work: Work) -> bool:
    """Whether a list has an element, or an object a name."""
    if isinstance(container, dict) and not isinstance(container, ResultsReference):
        return isinstance(value, str) and value in container
    if isinstance(container, list):
        return any(equal(each, value, work) for each in container)
    raise ExpressionError(f"'in' needs a list or an object, not {kind_of(container)}")


def add(one: JsonValue, other: JsonValue, work: Work) -> JsonValue:
    """Return a sum of numbers, or two texts or lists joined."""
    if isinstance(one, str) and isinstance(other, str):
        work.text(len(one) + len(other))
        return one + other
    if isinstance(one, list) and isinstance(other, list):
        work.spend(len(one) + len(other))
        return one + other
    return _calculate("+", lambda a, b: a + b, one, other)


def calculate(sign: str, one: JsonValue, other: JsonValue) -> JsonValue:
    """Return a difference, product, quotient or remainder of numbers.

    Integers give an integer, rounded towards zero; an integer and a fraction give a fraction.
    """
    return _calculate(sign, _OPERATIONS[sign], one, other)


def _calculate(
    sign: str, operation: Callable[[Any, Any], Any], one: JsonValue, other: JsonValue
) -> JsonValue:
    if not (is_number(one) and is_number(other)):
        cure = "; write string(…) around the other value" if sign == "+" and (
            isinstance(one, str) or isinstance(other, str)
        ) else ""  # fmt: skip
        raise ExpressionError(f"{kind_of(one)} {sign} {kind_of(other)} has no meaning{cure}")
    try:
        return in_range(operation(one, other))
    except ZeroDivisionError:
        raise ExpressionError(f"{sign} by zero") from None
    except OverflowError:
        raise ExpressionError("a number is too large") from None


def in_range(number: JsonValue) -> JsonValue:
    """Return a number; raises ExpressionError for one that can't be stored."""
    if isinstance(number, float):
        if not math.isfinite(number):
            raise ExpressionError("a number is too large")
    elif number not in INT64:
        raise ExpressionError("an integer is beyond 64 bits; write double(…)")
    return number


def _divide(one: Any, other: Any) -> Any:
    if isinstance(one, int) and isinstance(other, int):
        quotient = abs(one) // abs(other)
        return quotient if (one < 0) == (other < 0) else -quotient
    return one / other


def _remainder(one: Any, other: Any) -> Any:
    if not (isinstance(one, int) and isinstance(other, int)):
        raise ExpressionError("% needs integers")
    return one - other * _divide(one, other)


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": _remainder,
}
