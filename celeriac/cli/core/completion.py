"""Completion of names and ids in the shell: the newest ones that the server knows."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

_SHOWN = 100


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Return the completion of names; `kind` is as in `client.tasks`."""

    def complete(incomplete: str) -> list[str]:
        return [each.name for each in _newest(kind) if each.name.startswith(incomplete)]

    return complete


def ids_of(kind: str) -> Callable[[str], list[str]]:
    """Return the completion of ids; `kind` is as in `client.executions`."""

    def complete(incomplete: str) -> list[str]:
        found = ["last", *(str(each.id) for each in _newest(kind))]
        return [each for each in found if each.startswith(incomplete)]

    return complete


def _newest(kind: str) -> Iterator[Any]:
    """Yield the newest resources of the server that the environment or the home names.

    Yields nothing if there is no such server or it does not answer: a shell shows no errors.
    """
    from celeriac.client import Client, ClientError

    with suppress(ClientError), Client.from_env() as client:
        yield from islice(getattr(client, kind).list(), _SHOWN)
