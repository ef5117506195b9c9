"""Asking objects of users' classes what they are: that runs code of theirs, which may do anything.

What comes back are plain values, or the given default.
"""

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from celeriac.kit.json_types import storable, storable_text

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_MAX_NAME = 200


def asked(ask: Callable[[], T], default: T) -> T:
    """Return what an object says, or `default` where asking raises."""
    try:
        return ask()
    except BaseException:  # noqa: BLE001 - the class may be a user's, and raise SystemExit
        return default


def asked_text(ask: Callable[[], object], characters: int) -> str:
    """Return a text that an object says, fit to be stored; empty where it says none."""

    def plain() -> str:
        said = ask()
        # a subclass of str may have methods of its own: only the characters are taken
        return str.__str__(said) if isinstance(said, str) else ""

    return storable_text(asked(plain, "")[:characters])


def asked_object(ask: Callable[[], Any], characters: int) -> str:
    """Return as JSON the object that it says, with texts in it where others can't be stored.

    A text is cut at `characters`. Empty where it says none.
    """
    said: dict[Any, Any] = asked(lambda: dict(ask()), {})
    text = asked(lambda: storable(said), None)
    if text is None:
        text = asked(lambda: storable(dict(_as_texts(said, characters))), "{}")
    return text


def type_name(kind: type) -> str:
    """Return the qualified name of a class."""
    # through `type` itself: a metaclass may have its own idea of a name
    return storable_text(type.__getattribute__(kind, "__qualname__"))[:_MAX_NAME]


def is_a(error: BaseException, kind: type[E]) -> TypeGuard[E]:
    """As `isinstance`, which would also ask the object for its `__class__`."""
    return issubclass(type(error), kind)


def _as_texts(said: dict[Any, Any], characters: int) -> list[tuple[str, str]]:
    def text(value: object) -> str:
        # the default for what can't say what it is names nothing of its own
        return asked_text(lambda: str(value), characters) or "?"

    return [(text(name), text(value)) for name, value in said.items()]
