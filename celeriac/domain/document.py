"""Documents of agents, tasks and what starts them, and their differences from stored ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from celeriac.domain.agents import AgentSpec
from celeriac.domain.budget_kinds import Period
from celeriac.domain.budgets import Budget
from celeriac.domain.hooks.model import Verification
from celeriac.domain.schedules.model import Timing
from celeriac.domain.schedules.policies import Policies
from celeriac.domain.schemas import Fault
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workspace_limits import LimitSpec
from celeriac.kit.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEntry:
    """An agent of a document; a description of None keeps the stored one."""

    name: str
    spec: AgentSpec
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """A task of a document; None keeps the stored value. `agent` is a name or an id."""

    name: str
    agent: str
    spec: TaskSpec | None = None
    description: str | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEntry:
    """The budget of a task (a name or an id) or of a user for a period."""

    task: str | None
    user_id: UUID | None
    period: Period
    budget: Budget

    @property
    def name(self) -> str:
        """Its name in answers."""
        whose = f"user {self.user_id}" if self.task is None else self.task
        return f"{whose} per {self.period.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """A limit of the workspace, of a task or of a workflow (names or ids)."""

    name: str
    spec: LimitSpec
    task: str | None = None
    workflow: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEntry:
    """A schedule of a task or a workflow; `active` None keeps the stored value."""

    name: str
    timing: Timing
    policies: Policies
    task: str | None = None
    workflow: str | None = None
    input: JsonObject
    active: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEntry:
    """A hook of a task or a workflow; None keeps the stored description and `active`.

    `secret` is used when the hook is created. `secret_env` is the variable of the environment that
    has to hold it.
    """

    name: str
    verification: Verification
    per_minute: int
    task: str | None = None
    workflow: str | None = None
    description: str | None = None
    mapping: JsonObject | None = None
    when: str | None = None
    active: bool | None = None
    secret: str | None = None
    secret_env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The content of a document. `apply` does not change resources that it does not name."""

    agents: Sequence[AgentEntry] = ()
    tasks: Sequence[TaskEntry] = ()
    budgets: Sequence[BudgetEntry] = ()
    workflows: Sequence[JsonObject] = ()
    """Documents of workflows as they are written (domain/workflows/document.py)."""
    limits: Sequence[LimitEntry] = ()
    schedules: Sequence[ScheduleEntry] = ()
    hooks: Sequence[HookEntry] = ()


class Action(StrEnum):
    """What `apply` does with a resource."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs; the value of a missing field is None."""

    field: str
    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one entry of a document.

    `version` is None for what has no versions; `id` and `version` are None for a resource that a
    dry run would create.
    """

    kind: str
    name: str
    action: Action
    id: UUID | None = None
    version: int | None = None
    changes: Sequence[FieldChange] = ()


def duplicates(document: Document) -> Iterator[Fault]:
    """Yield a fault for each repeated name."""
    names: dict[str, list[Any]] = {
        "agent": [entry.name for entry in document.agents],
        "task": [entry.name for entry in document.tasks],
        "workflow": [entry.get("workflow") for entry in document.workflows],
        "limit": [entry.name for entry in document.limits],
        "schedule": [entry.name for entry in document.schedules],
        "hook": [entry.name for entry in document.hooks],
    }
    for kind, given in names.items():
        field = "workflow" if kind == "workflow" else "name"
        for index, name in enumerate(given):
            earlier = given.index(name)
            if earlier != index:
                yield Fault(
                    f"{kind}s.{index}.{field}",
                    f"the {kind} {name!r} is in the document twice, first as "
                    f"{kind}s.{earlier}; remove one of them or give it another name",
                )


def differences(before: JsonObject, after: JsonObject) -> list[FieldChange]:
    """Return the fields whose values differ, with paths such as `spec.limits.memory_mb`.

    Objects are compared field by field, lists as a whole. An empty object, null and a missing field
    are equal. The order of fields counts in the `properties` of a schema, because models write
    results in it: its change has the names in both orders.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    found = [
        FieldChange(path, old.get(path), new.get(path))
        for path in [*old, *(path for path in new if path not in old)]
        if not _same(old.get(path), new.get(path))
    ]
    return [*found, *_orders(before, after)]


def plain(value: Any) -> Any:
    """Return a specification's values as JSON; amounts of money without trailing zeros."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


def _leaves(value: JsonValue, path: str = "") -> Iterator[tuple[str, JsonValue]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{path}.{name}" if path else name)


def _orders(before: JsonValue, after: JsonValue, path: str = "") -> Iterator[FieldChange]:
    """Yield the `properties` that have the same names in another order."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return
    if path.endswith(".properties") and before.keys() == after.keys() and [*before] != [*after]:
        yield FieldChange(path, [*before], [*after])
    for name, inner in before.items():
        yield from _orders(inner, after.get(name), f"{path}.{name}" if path else name)


def _same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
