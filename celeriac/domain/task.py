"""Tasks: named, reusable pieces of work. Like agents, their specification is versioned."""

from enum import IntEnum
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from celeriac.domain.agent import Strict
from celeriac.domain.agent.base import Shape
from celeriac.domain.budget import Budget
from celeriac.domain.retry import RetryPolicy

QueueName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60),
    Shape(
        r"[a-z][a-z0-9_-]*",
        "begin with a lower-case letter, and use lower-case letters, digits, '_' and '-' only",
    ),
]

DEFAULT_QUEUE = "task_execution"
MAX_PROMPT_TEMPLATE = 200_000


class Priority(IntEnum):
    """How urgent an execution is among those waiting in one queue; higher goes first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name used in the API: low, normal, high or critical."""
        return self.name.lower()

    @classmethod
    def parse(cls, label: str) -> Self:
        """Return the priority of an API name; raises KeyError for an unknown one."""
        return cls[label.upper()]


def _priority(value: object) -> object:
    if isinstance(value, str) and value.islower() and value.upper() in Priority.__members__:
        return Priority.parse(value)
    if isinstance(value, Priority):
        return value
    raise ValueError("must be one of low, normal, high, critical")


PriorityLabel = Annotated[
    Priority,
    BeforeValidator(_priority),
    PlainSerializer(lambda value: Priority(value).label, return_type=str),
    WithJsonSchema({"type": "string", "enum": [priority.name.lower() for priority in Priority]}),
]
"""A priority that is written as its name."""


class Limits(Strict):
    """Bounds of one attempt. Past the hard limit the work is stopped by force, in every pool."""

    soft_seconds: float = Field(default=540.0, gt=0, le=86_400)
    hard_seconds: float = Field(default=600.0, gt=0, le=86_400)
    memory_mb: int = Field(default=1024, ge=64, le=1_048_576)
    """What each process of a child may allocate; the worker's own loop is not bounded by it."""

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        if self.soft_seconds > self.hard_seconds:
            raise ValueError(
                "soft_seconds must not be greater than hard_seconds: "
                "lower the soft limit or raise the hard one"
            )
        return self


class TaskSpec(Strict):
    """What a task does and within which bounds; the agent is named beside it."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_TEMPLATE)
    """A Jinja template, rendered in a sandbox with the execution's variables."""
    variables_schema: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema (2020-12) of the variables; empty means: no variables are checked."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema of the result; None leaves the result free-form."""
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    max_crashes: int = Field(default=3, ge=1, le=20)
    """After so many lost workers the execution is failed with `worker_lost`."""
    queue: QueueName = DEFAULT_QUEUE
    budget: Budget | None = None
    """What the model calls of one execution may cost together."""
    priority: PriorityLabel = Field(
        default=Priority.NORMAL, json_schema_extra={"default": Priority.NORMAL.label}
    )
