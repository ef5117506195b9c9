"""Steps: what an agent has done in its execution that is not done again in later attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import JsonObject, JsonValue

MAX_STEPS = 10_000
"""How many steps one execution may store."""

MAX_CHILDREN = 10_000
"""How many executions one step may start."""

MAX_RESULTS_BYTES = 16_000_000
"""How many bytes of JSON the results of the executions of one step, or of one Celery task
`batch_process`, may have together. They are read at once, and sent to a child as one line."""

MAX_DEPTH = 16
"""How many generations a tree of executions may have."""


class StepKind(StrEnum):
    """The kind of a step."""

    STEP = "step"
    """A call of a function, whose result is stored."""
    SLEEP = "sleep"
    RUN = "run"
    """An execution of another task."""
    MAP = "map"
    """Executions of another task, one for each item of a list."""
    ASK = "ask"
    """A question to a person."""


class StepStatus(StrEnum):
    """The status of a stored step."""

    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """A step to store. With the `number` of a stored one it replaces that one."""

    number: int
    path: str | None
    """Its place in the code (`celeriac.agents.durable`); None if its name identifies it."""
    name: str
    kind: StepKind
    status: StepStatus
    tries: int = 1
    result: str | None = None
    """JSON text."""
    error: JsonObject | None = None
    wake_seconds: float | None = None
    """From now, by the database's clock."""
    wake_at: str | None = None
    """RFC 3339; replaces `wake_seconds`."""
    width: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """A step as it is stored."""

    number: int
    path: str | None
    name: str
    kind: StepKind
    status: StepStatus
    attempt: int
    retry_count: int
    """The execution's when the step was stored."""
    result: JsonValue = None
    has_large_result: bool = False
    """Whether the result was left out because of its size."""
    error: JsonObject | None = None
    wake_seconds: float | None = None
    """Seconds until the end of a sleep, when this was read."""
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChildren:
    """Executions to start by a step: of the items at `places` of its list."""

    task: str
    """The name of the task, in the parent's workspace."""
    places: Sequence[int]
    variables: Sequence[JsonObject]
    queue: str | None = None
    priority: int | None = None
    parallel: int | None = None
    """How many children of the step may run at once; None: all."""


@dataclass(frozen=True, slots=True)
class Child:
    """An execution that a step has started."""

    execution_id: UUID
    status: Status
    result: JsonValue = None
    error_code: str | None = None
    error_message: str | None = None
