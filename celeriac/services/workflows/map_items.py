"""The list of a map, what the expressions of its items see, and the keys that items share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.domain.errors import (
    CeleriacError,
    ExpressionError,
    InvalidInputError,
    TooLargeError,
    UnavailableError,
)
from celeriac.domain.expressions.values import kind_of
from celeriac.domain.workflows.model import MAX_ITEMS, Step
from celeriac.domain.workflows.paths import StepPath
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.kit.json_types import JsonValue
from celeriac.kit.words import counted
from celeriac.services.workflows.plans import Plan
from celeriac.services.workflows.values import RunValues, evaluate, holds


def list_of(expression: str, scope: Mapping[str, Any]) -> list[JsonValue]:
    """Return the list of a map. Raises ExpressionError and TooLargeError."""
    items = evaluate(expression, scope)
    if not isinstance(items, list):
        raise ExpressionError(f"{expression}: a map needs a list, not {kind_of(items)}.")
    if len(items) > MAX_ITEMS:
        raise TooLargeError(f"A map has at most {MAX_ITEMS:,} items, not {len(items):,}.")
    return items


def scopes(
    step: Step, scope: Mapping[str, Any], numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each item with what its expressions see."""
    if step.map is None:
        for number in numbers:
            yield number, dict(scope)
        return
    items = list_of(step.map, scope)
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


def check_items(
    connection: Connection,
    plan: Plan,
    origin: WorkflowRun,
    run_id: UUID,
    path: StepPath,
    *,
    kept: Iterable[int],
) -> None:
    """Check that the items of a map that a fork does not run again are the same as before.

    The new run has all that the step needs, and begins with the items `kept`. Raises
    InvalidInputError.
    """
    new = runs.get(connection, run_id, workspace=None)
    assert new is not None, "it is inserted in this transaction"
    try:
        now = _items_in(connection, plan, new, path.step)
    except UnavailableError:
        raise
    except CeleriacError as error:
        raise _differs(path, f"its list has no value then: {error}") from error
    before = _items_in(connection, plan, origin, path.step)
    if now is None or before is None:
        raise _differs(path, "its condition does not hold then")
    if path.items[-1] >= len(now):
        raise _differs(path, f"it has {counted(len(now), 'item')} then")
    for number in sorted(kept):
        if number >= len(now):
            raise _differs(path, f"item {number}, which keeps its result, is not in the list then")
        if now[number] != before[number]:
            raise _differs(path, f"item {number}, which keeps its result, differs: name it, too")


def _items_in(
    connection: Connection, plan: Plan, run: WorkflowRun, name: str
) -> list[JsonValue] | None:
    """Return the list of a map in a run that has what the step needs; None if it is skipped."""
    step = plan.spec.steps[name]
    assert step.map is not None, "checked"
    scope = RunValues(run).scope(
        connection, plan.spec.steps, rows.of_run(connection, run.id), plan.graph.needs[name],
        last=step.is_last,
    )  # fmt: skip
    if step.when is not None and not holds(step.when, scope):
        return None
    return list_of(step.map, scope)


def _differs(path: StepPath, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"The items of {path.step!r} can't be run again alone with this input and these results: "
        f"{why}. Leave out the items to run all of them.",
        field="items",
    )
