"""Errors that agents may raise to harm their worker: `RAISED` has them by name."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn

from celeriac import PermanentError, RetryableError

_MINUTES = 600.0


class OwnBaseError(BaseException):
    """No Exception, as GeneratorExit is none."""


class OwnCancelledError(asyncio.CancelledError):
    """Looks like a cancellation that nobody asked for."""


class UnspeakableError(Exception):
    """Has no text at all."""

    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__

    def _raise(self) -> NoReturn:
        raise KeyboardInterrupt

    __notes__ = property(_raise)


class NoTextError(Exception):
    """Has a text that is no text."""

    def __str__(self) -> Any:
        return b"no text"  # noqa: PLE0307 - what this is about


class SlowTextError(Exception):
    """Takes for ever to say what it is."""

    def __str__(self) -> str:
        time.sleep(_MINUTES)
        return "at last"


class HostileText(str):
    """A text whose methods raise."""

    __slots__ = ()

    def replace(self, *_: Any, **__: Any) -> NoReturn:
        raise SystemExit(2)

    encode = __getitem__ = replace


class HostileTextError(Exception):
    """Returns such a text."""

    def __str__(self) -> str:
        return HostileText("hostile")


class HostileAttributesError(RetryableError):
    """Every attribute that we ask for raises."""

    def __init__(self) -> None:
        Exception.__init__(self, "hostile attributes")

    def _raise(self) -> NoReturn:
        raise SystemExit(3)

    code = details = retryable = message = __notes__ = property(_raise)


class OddAttributesError(PermanentError):
    """Every attribute that we ask for has another type."""

    code = 7  # type: ignore[assignment]
    retryable = "perhaps"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__("odd attributes")
        self.details = [1, 2]  # type: ignore[assignment]


class UnstorableDetailsError(RetryableError):
    """Has details that JSON can't hold."""

    code = "shop_closed"

    def __init__(self) -> None:
        super().__init__("closed", when=object(), big=2**70, text="\ud800\x00", unspeakable=_Mute())


class _Mute:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class _HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__module__"}:
            raise SystemExit(5)
        return super().__getattribute__(name)


class HostileClassError(Exception, metaclass=_HostileMeta):
    """Has a class without a name."""


def _nested() -> BaseException:
    error: Exception = ValueError("the innermost")
    for _ in range(3000):
        error = ExceptionGroup("group", [error])
    return error


def _chained() -> BaseException:
    error: Exception = ValueError("the first")
    for number in range(20_000):
        following = ValueError(f"number {number}")
        following.__context__ = error
        error = following
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "own BaseException": lambda: OwnBaseError("own"),
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "own CancelledError": OwnCancelledError,
    "group": lambda: ExceptionGroup("group", [ValueError("one"), OSError("two")]),
    "group with SystemExit": lambda: BaseExceptionGroup(
        "group", [SystemExit(1), UnspeakableError()]
    ),
    "group in groups": _nested,
    "long chain": _chained,
    "no text": UnspeakableError,
    "text of another type": NoTextError,
    "text with hostile methods": HostileTextError,
    "huge text": lambda: ValueError("x" * 50_000_000),
    "hostile attributes": HostileAttributesError,
    "odd attributes": OddAttributesError,
    "unstorable details": UnstorableDetailsError,
    "hostile class": HostileClassError,
}
