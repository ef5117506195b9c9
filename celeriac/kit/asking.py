"""Reads values from objects of users' classes, whose code may do anything.

Returns plain values, or the given default.
"""

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from celeriac.kit.json_types import storable, storable_text

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_MAX_NAME = 200


def asked(ask: Callable[[], T], default: T) -> T:
    """Return the result of `ask`, or `default` where it raises."""
    try:
        return ask()
    except BaseException:  # noqa: BLE001 - the class may be a user's, and raise SystemExit
        return default


def asked_text(ask: Callable[[], object], characters: int) -> str:
    """Return the text that `ask` returns, cut and storable; empty where it returns none."""

    def plain() -> str:
        said = ask()
        # a subclass of str may override methods: take the characters only
        return str.__str__(said) if isinstance(said, str) else ""

    return storable_text(asked(plain, "")[:characters])


def asked_object(ask: Callable[[], Any], characters: int) -> str:
    """Return the mapping that `ask` returns as JSON; values that can't be stored become texts.

    These texts are cut to `characters`. Returns `{}` where `ask` fails.
    """
    said: dict[Any, Any] = asked(lambda: dict(ask()), {})
    text = asked(lambda: storable(said), None)
    if text is None:
        text = asked(lambda: storable(dict(_as_texts(said, characters))), "{}")
    return text


def type_name(kind: type) -> str:
    """Return the qualified name of a class, without running its code."""
    # by `type` itself: a metaclass may override it
    return storable_text(type.__getattribute__(kind, "__qualname__"))[:_MAX_NAME]


def is_a(error: BaseException, kind: type[E]) -> TypeGuard[E]:
    """As `isinstance`, without reading the object's `__class__`."""
    return issubclass(type(error), kind)


def _as_texts(said: dict[Any, Any], characters: int) -> list[tuple[str, str]]:
    def text(value: object) -> str:
        # an object without a text
        return asked_text(lambda: str(value), characters) or "?"

    return [(text(name), text(value)) for name, value in said.items()]
