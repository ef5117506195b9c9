"""Who is told what happens on the wire while a model is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Told of a run's requests to its model."""

    def asked(self) -> None:
        """The model was asked."""

    def heard(self) -> None:
        """A piece of its answer came."""

    def rest(self) -> None:
        """Nothing is due: the client waits before it asks again."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def listener() -> Listener | None:
    """Return who listens to the requests of this task, if anybody does."""
    return _listener.get()


@contextmanager
def listening(who: Listener) -> Iterator[None]:
    """Tell `who` of the requests that the block makes, in tasks that it starts too."""
    token = _listener.set(who)
    try:
        yield
    finally:
        _listener.reset(token)
