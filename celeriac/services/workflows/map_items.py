"""What the expressions of a map's items see, and the keys by which items share an execution."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from celeriac.domain.errors import CeleriacError, InvalidInputError
from celeriac.domain.workflows.model import Step
from celeriac.services.workflows.values import evaluate


def scopes(
    step: Step, scope: Mapping[str, Any], numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each item with what its expressions see."""
    if step.map is None:
        for number in numbers:
            yield number, dict(scope)
        return
    items = evaluate(step.map, scope)
    for number in numbers:
        yield number, {**scope, "item": items[number], "index": number}


def key_of(step: Step, scope: Mapping[str, Any]) -> str | None:
    """Return the key of an item; None if items of the step have none.

    Raises InvalidInputError if it is no text and no number, and CeleriacError if it has no value.
    """
    if step.key is None:
        return None
    key = evaluate(step.key, scope)
    if not isinstance(key, str | int | float | bool):
        raise InvalidInputError("The key of an item must be a text or a number.", field="key")
    return str(key)


def keys_of(step: Step, each: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[int, str]:
    """Return the keys of items by their numbers, without those whose key can't be computed."""
    keys = {}
    for number, scope in each:
        try:
            key = key_of(step, scope)
        except CeleriacError:
            continue
        if key is not None:
            keys[number] = key
    return keys
