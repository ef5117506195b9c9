"""The values of templates: JSON values and missing ones, no others."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac.domain.errors import TemplateRenderError
from celeriac.domain.prompts.work import MAX_RENDERED_CHARACTERS, WorkLimit

_MAX_INTEGER = 2**64
"""JSON input has no larger ones, and formatting them takes more than linear time."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing value. Using it is an error, except in the tests and the filter for that."""

    name: str
    quiet: bool = False
    """Whether it counts as an empty text, as the value of an inline `if` without `else`."""


def fault(message: str) -> TemplateRenderError:
    """Return the error of a template that can't be rendered with its variables."""
    return TemplateRenderError(
        f"The prompt template can't be rendered: {message}", field="variables"
    )


def given(value: Any) -> Any:
    """Return the value; raises TemplateRenderError if it is missing."""
    if isinstance(value, Missing):
        if value.quiet:
            return ""
        raise fault(f"{value.name!r} is undefined")
    return value


def number(value: Any) -> int | float:
    """Return the number; raises TemplateRenderError unless it is one of at most 64 bits."""
    if not isinstance(value, int | float):
        raise fault(f"a {kind(value)} is not a number")
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise fault("a number is beyond 64 bits")
    return value


def is_list(value: Any) -> bool:
    """Whether a value is a JSON array."""
    return isinstance(value, list | tuple)


def kind(value: Any) -> str:
    """Return the name of a value's type."""
    if value is None:
        return "none"
    return next((name for name, types in _KINDS if isinstance(value, types)), "value of no JSON")


_KINDS = (
    ("text", str),
    ("boolean", bool),
    ("number", (int, float)),
    ("mapping", Mapping),
    ("list", (list, tuple)),
)


def elements(value: Any, work: WorkLimit) -> Sequence[Any]:
    """Return what a loop iterates over: elements of a list, keys of a mapping, characters."""
    value = given(value)
    if not isinstance(value, str | Mapping) and not is_list(value):
        raise fault(f"a {kind(value)} has no elements")
    work.spend(len(value))
    return value if is_list(value) else list(value)


def text_of(value: Any, work: WorkLimit) -> str:
    """Return a value as text, as templates output it."""
    value = given(value)
    match value:
        case str():
            return value
        case None | bool():
            return str(value)
        case int() | float():
            if not math.isfinite(number(value)):
                raise fault("a number is infinite, or is none")
            return str(value)
    weigh(value, work)
    return str(value)


def weigh(value: Any, work: WorkLimit) -> int:
    """Count the work of traversing a value; return its approximate number of characters as text.

    Raises TemplateRenderError if that is too large, or a part of the value is not JSON.
    """
    characters = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, Mapping):
            work.spend(2 * len(item))
            characters += sum(_key_length(key) for key in item)
            waiting.extend(item.values())
        elif is_list(item):
            work.spend(len(item))
            waiting.extend(item)
        elif item is None or isinstance(item, int | float):
            if item is not None:
                number(item)
        else:
            raise fault(f"a {kind(item)} can't be written")
        characters += 2
        if characters > MAX_RENDERED_CHARACTERS:
            break
    work.text(characters)
    return characters


def equal(left: Any, right: Any, work: WorkLimit) -> bool:
    """Return whether two values are equal, and count the work of comparing them."""
    work.spend(1)
    if isinstance(left, str) and isinstance(right, str):
        if len(left) != len(right):
            return False
        work.spend(len(left) // 64)
        return left == right
    if is_list(left) and is_list(right):
        return len(left) == len(right) and all(
            equal(one, other, work) for one, other in zip(left, right, strict=True)
        )
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return len(left) == len(right) and all(
            key in right and equal(value, right[key], work) for key, value in left.items()
        )
    if left is None or right is None:
        return left is right
    return isinstance(left, int | float) and isinstance(right, int | float) and left == right


def ordered(values: Sequence[Any], work: WorkLimit) -> Sequence[Any]:
    """Count the work of sorting values and return them; raises if one has no order."""
    rounds = max(1, len(values)).bit_length()
    work.spend(len(values) * rounds // 2)
    for value in values:
        if isinstance(value, str):
            work.spend(rounds * len(value) // 16)
        elif is_list(value):
            work.spend(rounds * (1 + weigh(value, work) // 16))
        else:
            number(given(value))
    return values


def inner(value: Any, key: Any, name: str) -> Any:
    """Return the value at a key or an index, or a Missing called `name`."""
    value = given(value)
    if isinstance(value, Mapping):
        return value[key] if isinstance(key, str) and key in value else Missing(name)
    has_places = isinstance(key, int) and (isinstance(value, str) or is_list(value))
    return value[key] if has_places and -len(value) <= key < len(value) else Missing(name)


def key_of(attribute: Any, work: WorkLimit) -> Callable[[Any], Any]:
    """Return a function for the attribute `a.b` of an element; for None, the element itself."""
    if attribute is None:
        return given
    path = [int(part) if part.isdecimal() else part for part in _short(attribute).split(".")]

    def find(element: Any) -> Any:
        for part in path:
            work.spend(1)
            element = inner(element, part, str(attribute))
        return given(element)

    return find


def _short(attribute: Any) -> str:
    if isinstance(attribute, str) and len(attribute) <= _MAX_ATTRIBUTE:
        return attribute
    if isinstance(attribute, int):
        return str(number(attribute))
    raise fault("an attribute must be a short name")


_MAX_ATTRIBUTE = 200


def _key_length(key: Any) -> int:
    if not isinstance(key, str):
        raise fault("a mapping has a key that is not a text")
    return len(key)
