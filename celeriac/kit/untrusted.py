"""Reads values from objects of users' classes, whose code may do anything.

Returns plain values, or the given default.
"""

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from celeriac.kit.json_types import storable, storable_text

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_MAX_NAME = 200


def result_or(read: Callable[[], T], default: T) -> T:
    """Return the result of `read`, or `default` where it raises."""
    try:
        return read()
    except BaseException:  # noqa: BLE001 - the class may be a user's, and raise SystemExit
        return default


def read_text(read: Callable[[], object], characters: int) -> str:
    """Return the text that `read` returns, cut and storable; empty where it returns none."""

    def plain() -> str:
        found = read()
        # a subclass of str may override methods: take the characters only
        return str.__str__(found) if isinstance(found, str) else ""

    return storable_text(result_or(plain, "")[:characters])


def read_json_object(read: Callable[[], Any], characters: int) -> str:
    """Return the mapping that `read` returns as JSON; values that can't be stored become texts.

    These texts are cut to `characters`. Returns `{}` where `read` fails.
    """
    found: dict[Any, Any] = result_or(lambda: dict(read()), {})
    text = result_or(lambda: storable(found), None)
    if text is None:
        text = result_or(lambda: storable(dict(_as_texts(found, characters))), "{}")
    return text


def type_name(kind: type) -> str:
    """Return the qualified name of a class, without running its code."""
    # by `type` itself: a metaclass may override it
    return storable_text(type.__getattribute__(kind, "__qualname__"))[:_MAX_NAME]


def is_a(error: BaseException, kind: type[E]) -> TypeGuard[E]:
    """As `isinstance`, without reading the object's `__class__`."""
    return issubclass(type(error), kind)


def _as_texts(found: dict[Any, Any], characters: int) -> list[tuple[str, str]]:
    def text(value: object) -> str:
        # an object without a text
        return read_text(lambda: str(value), characters) or "?"

    return [(text(name), text(value)) for name, value in found.items()]
