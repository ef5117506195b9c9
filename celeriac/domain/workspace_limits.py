"""Limits of a workspace: set up by themselves, and changed while executions live (pure).

A limit of a task is part of its specification, and executions keep its numbers. A limit of a
workspace is a row of its own: what it says now holds for all executions, whenever they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator, model_validator

from celeriac.domain.base import Strict
from celeriac.domain.errors import ExpressionError, InputInvalidError, InvalidInputError
from celeriac.domain.expressions import compiled
from celeriac.domain.limit_policies import LimitCount, LimitOf, LimitPolicy
from celeriac.domain.limits import (
    KEY_ROOTS,
    LIMIT_PREFIX,
    RUN_KEY_ROOTS,
    KeyedLimit,
    KeyText,
    RateLimit,
    check_fields,
    check_key,
    check_rate,
    key_text,
)
from celeriac.kit.json_types import JsonObject, JsonValue

MOST_LIMITS = 100
"""How many a workspace may have."""

MOST_OF_ONE = 8
"""How many of a workspace's limits may be about all of it, and about one task or workflow."""


class LimitSpec(Strict):
    """What a limit of a workspace says."""

    of: LimitOf = Field(default=LimitOf.EXECUTIONS, strict=False)
    """What it is about: executions, or the runs of a workflow."""
    key: KeyText | None = None
    """A CEL expression: what has the same key shares its slots; without a key all do."""
    max: int = Field(ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, gt=0, le=366 * 86_400)
    """It is a rate: so many begin in so many seconds. Otherwise so many run at once."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Of a rate: how many may begin at once after a rest."""
    policy: LimitPolicy = Field(default=LimitPolicy.QUEUE, strict=False)
    count: LimitCount = Field(default=LimitCount.RUNNING, strict=False)
    """Of runs: `active` counts them from their begin to their end, also while they only wait."""

    @field_validator("key")
    @classmethod
    def _names_what_there_is(cls, key: str | None, info: ValidationInfo) -> str | None:
        roots = RUN_KEY_ROOTS if info.data.get("of") is LimitOf.RUNS else KEY_ROOTS
        return None if key is None else check_key(key, roots=roots)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.of is LimitOf.RUNS and self.seconds is not None:
            raise ValueError("a limit of runs says how many run at once: leave seconds out")
        if self.of is not LimitOf.RUNS and self.count is not LimitCount.RUNNING:
            raise ValueError("count: active is only for a limit of runs; executions count as they "
                             "run: leave count out, or add of: runs")  # fmt: skip
        if self.seconds is None and self.burst is not None:
            raise ValueError("burst is only for a rate: give seconds, too, or leave burst out")
        if self.seconds is not None and self.policy is not LimitPolicy.QUEUE:
            raise ValueError("a rate has the policy queue: what may not begin yet waits")
        if self.seconds is not None:
            check_rate(self.max, self.seconds, self.burst)
        return self


def check_names(
    spec: LimitSpec, *, task: JsonObject | None = None, workflow: JsonObject | None = None
) -> None:
    """Raise InvalidInputError for a key that nothing that the limit is about could have.

    `task` is the schema of the task's variables, `workflow` that of the workflow's input, of which
    a limit is. Executions of the steps of a workflow are of several tasks: their variables are not
    checked.
    """
    root, schema, whose = (
        ("input", workflow, "the input of the workflow")
        if spec.of is LimitOf.RUNS
        else ("variables", task, "the task's variables_schema")
    )
    if spec.key is None or schema is None:
        return
    try:
        check_fields(spec.key, root, schema, whose)
    except ValueError as error:
        raise InvalidInputError(f"The key of the limit: {error}", field="key") from error


@dataclass(frozen=True, slots=True)
class WorkspaceLimit:
    """A limit of a workspace."""

    id: UUID
    workspace_id: UUID
    name: str
    task_id: UUID | None
    """It is about the executions of this task."""
    task_name: str | None
    workflow_id: UUID | None
    """It is about this workflow's runs, or the executions of their steps.

    Without a task and a workflow it is about all executions of the workspace.
    """
    workflow_name: str | None
    of: LimitOf
    key: str | None
    max: int
    seconds: float | None
    burst: int | None
    policy: LimitPolicy
    count: LimitCount
    owner_id: UUID
    """Who made it."""
    created_by: str
    """Their name."""
    created_at: datetime
    updated_at: datetime

    @property
    def spec(self) -> LimitSpec:
        """What it says."""
        return LimitSpec(
            of=self.of,
            key=self.key,
            max=self.max,
            seconds=self.seconds,
            burst=self.burst,
            policy=self.policy,
            count=self.count,
        )

    def names(self, root: str) -> bool:
        """Whether the key is computed from `root`, one of those that there are."""
        references = compiled(self.key).references if self.key is not None else ()
        return any(each.path[0] == root for each in references)


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How many executions or runs have slots of a limit, and wait for one; bounded counts."""

    held: int
    waiting: int
    in_use: int
    """How many have the limit, whatever they have of it: what its deletion lets go."""


def workspace_limits(
    limits: Sequence[WorkspaceLimit],
    scope: Mapping[str, JsonValue],
    *,
    workflow_id: UUID | None = None,
) -> list[KeyedLimit]:
    """Return those of a workspace's limits that an execution or a run has, with their keys.

    The caller has left out those of other tasks, and those of what it is not. `workflow_id` is that
    of the run, or of which the execution is a step.

    A limit whose key is null, or needs a variable that there is not, is not about it.
    Raises InputInvalidError, which names the limit, for any other key that can't be computed, so
    that nobody gets around a limit by odd variables.
    """
    found = []
    for each in limits:
        of_others = each.workflow_id is not None and each.workflow_id != workflow_id
        key = None if of_others else _key(each, scope)
        if key is not None:
            found.append(_keyed(each, key))
    return found


def _keyed(limit: WorkspaceLimit, key: str) -> KeyedLimit:
    if limit.seconds is None:
        return KeyedLimit(key, limit.max, limit.policy, limit.count, limit_id=limit.id)
    rate = RateLimit(key="''", max=limit.max, seconds=limit.seconds, burst=limit.burst)
    return KeyedLimit(
        key,
        limit.max,
        limit.policy,
        interval=rate.interval,
        burst=rate.at_once,
        limit_id=limit.id,
    )


def _key(limit: WorkspaceLimit, scope: Mapping[str, JsonValue]) -> str | None:
    stored = f"{LIMIT_PREFIX}{limit.name}"
    if limit.key is None:
        return stored
    field = f"limit {limit.name}"
    expression = compiled(limit.key)
    try:
        value = expression.value(scope)
    except ExpressionError as error:
        if any(_lacks(scope, reference.path) for reference in expression.references):
            return None
        raise InputInvalidError(
            f"The key of the limit {limit.name!r} can't be computed for this input: "
            f"{error.message}",
            field=field,
        ) from error
    if value is None:
        return None
    return f"{stored}:{key_text(value, limit.key, field, of=f'the limit {limit.name!r}')}"


def _lacks(scope: Mapping[str, JsonValue], path: Sequence[object]) -> bool:
    """Whether what a path names is missing or null."""
    found: object = scope
    for part in path:
        if found is None:
            return True
        if not isinstance(found, Mapping):
            return False
        found = found.get(part)
    return found is None
