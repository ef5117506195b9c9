"""Limits by key of executions (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.domain.executions.model import ExecutionSpec
from celeriac.domain.labels import Labels
from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import ExecutionSlot, KeyedLimit, key_of, task_limits
from celeriac.domain.workspace_limits import workspace_limits
from celeriac.kit.json_types import JsonObject


def limits_of(
    spec: ExecutionSpec,
    variables: JsonObject,
    labels: Labels,
    *,
    user_id: UUID,
    workspace_id: UUID,
    workflow_id: UUID | None = None,
) -> list[KeyedLimit]:
    """Return the limits of an execution with their keys, in the order of the keys.

    `workflow_id` is that of which it is a step.

    Raises InputInvalidError for a key that can't be computed from these variables and labels.
    """
    if not (spec.task.concurrency or spec.task.rates or spec.limits):
        return []
    scope = _scope(spec, variables, labels, user_id, workspace_id)
    of_task = task_limits(spec.task.concurrency, spec.task.rates, scope)
    others = workspace_limits(spec.limits, scope, workflow_id=workflow_id)
    return sorted([*of_task, *others], key=lambda each: each.key)


def debounce_key(
    spec: ExecutionSpec,
    variables: JsonObject,
    labels: Labels,
    *,
    user_id: UUID,
    workspace_id: UUID,
) -> str | None:
    """Return the key of the task's debounce, or None. Raises InputInvalidError."""
    if spec.task.debounce is None:
        return None
    scope = _scope(spec, variables, labels, user_id, workspace_id)
    return key_of(spec.task.debounce.key, scope, "debounce.key")


def _scope(
    spec: ExecutionSpec, variables: JsonObject, labels: Labels, user_id: UUID, workspace_id: UUID
) -> JsonObject:
    return scope_of(spec.task_name, variables, labels, user_id=user_id, workspace_id=workspace_id)


def scope_of(
    task_name: str, variables: JsonObject, labels: Labels, *, user_id: UUID, workspace_id: UUID
) -> JsonObject:
    """Return what the key of a limit may name."""
    return {
        "variables": variables,
        "labels": dict(labels),
        "task": task_name,
        "user": str(user_id),
        "workspace": str(workspace_id),
    }


@dataclass(frozen=True, slots=True)
class Wants:
    """An execution that waits in a line, and its limits."""

    id: UUID
    limits: list[tuple[str, int, int]]
    """The key, how many slots there are, and how many of them others have.

    Of a rate: how many may begin now, and 0.
    """


@dataclass(frozen=True, slots=True)
class Admission:
    """Who gets slots now, and who continues to wait in the line of another key."""

    admitted: Sequence[UUID]
    moved: Sequence[tuple[UUID, str]]


def admission(line: str, waiting: Sequence[Wants]) -> Admission:
    """Return who of a line, in its order, gets a slot of each of its keys.

    It ends with the first for which this key has no slot. Who lacks a slot of other keys only then
    waits in the line of the one that has the fewest, and does not hold up those behind it.
    """
    given: dict[str, int] = {}
    admitted: list[UUID] = []
    moved: list[tuple[UUID, str]] = []
    for each in waiting:
        full = [(most, key) for key, most, used in each.limits if used + given.get(key, 0) >= most]
        if any(key == line for _, key in full):
            break
        if full:
            moved.append((each.id, min(full)[1]))
            continue
        admitted.append(each.id)
        for key, _, _ in each.limits:
            given[key] = given.get(key, 0) + 1
    return Admission(admitted, moved)


@dataclass(frozen=True, slots=True)
class ExecutionLimit:
    """A limit of an execution that has not ended, and who has its slots."""

    key: str
    max: int
    policy: LimitPolicy
    state: ExecutionSlot
    used: int
    """How many executions have a slot, counted up to `max`."""
    holders: Sequence[UUID]
    """The oldest of them, five at most."""
    ahead: int
    """How many come before it in the line in which it waits."""
    interval: float | None = None
    """Of a rate: the seconds from one begin to the next."""
    next_at: datetime | None = None
    """Of a rate: when the next may begin."""
    limit_id: UUID | None = None
    """Of a limit of the workspace."""
    name: str | None = None
    """Its name."""
