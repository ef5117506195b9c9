"""Tasks: prompt, schemas, limits and retry policy, versioned."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from celeriac.domain.agents import AgentSpec
from celeriac.domain.base import Shape, Strict
from celeriac.domain.budgets import Budget
from celeriac.domain.limits import ConcurrencyLimit, Debounce, RateLimit
from celeriac.domain.repositories import Repository


class RetryPolicy(Strict):
    """How often, and after which delays, failed attempts are repeated.

    The defaults give waits of 2, 4 and 8 seconds (REQUIREMENTS B5), each shifted by jitter.
    """

    max_retries: int = Field(default=3, ge=0, le=100)
    base_seconds: float = Field(default=2.0, ge=0, le=3600)
    factor: float = Field(default=2.0, ge=1, le=10)
    max_seconds: float = Field(default=300.0, ge=0, le=86_400)
    jitter: float = Field(default=0.1, ge=0, le=1)
    """Random part of the delay: 0.1 means ±10 %."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Retry after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not retry; `reason` is `permanent` or `retries_exhausted`."""

    reason: str


def backoff(policy: RetryPolicy, retry_count: int, spread: float) -> float:
    """Return the delay in seconds before the next retry.

    `retry_count` counts the earlier retries; `spread` in [-1, 1] selects the point within the
    jitter (0: the middle).
    """
    wait = min(policy.base_seconds * policy.factor**retry_count, policy.max_seconds)
    return wait * (1 + policy.jitter * spread)


def decide(
    policy: RetryPolicy,
    *,
    retry_count: int,
    retryable: bool,
    spread: float,
    retry_after: float | None = None,
) -> RetryAfter | GiveUp:
    """Decide what happens after a failed attempt.

    A provider's `retry_after` (seconds) is used if it is longer than the backoff, up to one day.
    """
    if not retryable:
        return GiveUp("permanent")
    if retry_count >= policy.max_retries:
        return GiveUp("retries_exhausted")
    wait = backoff(policy, retry_count, spread)
    return RetryAfter(max(wait, min(retry_after or 0.0, 86_400.0)))


QueueName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60),
    Shape(
        r"[a-z][a-z0-9_-]*",
        "begin with a lower-case letter, and use lower-case letters, digits, '_' and '-' only",
    ),
]

DEFAULT_QUEUE = "task_execution"
LONGEST_EXPIRY = 366 * 86_400.0
"""Seconds until an execution expires."""
MAX_PROMPT_TEMPLATE = 200_000


class Priority(IntEnum):
    """The priority of an execution within its queue; higher values run first."""

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


MAX_LIMITS = 8
"""Limits by key of a task, and rates."""


class Limits(Strict):
    """Limits of one attempt. At the hard limit it is stopped by force, in every pool."""

    soft_seconds: float = Field(default=540.0, gt=0, le=86_400)
    hard_seconds: float = Field(default=600.0, gt=0, le=86_400)
    memory_mb: int = Field(default=1024, ge=64, le=1_048_576)
    """Memory that each child process may allocate; it does not limit the worker itself."""

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        if self.soft_seconds > self.hard_seconds:
            raise ValueError(
                "soft_seconds must not be greater than hard_seconds: "
                "lower the soft limit or raise the hard one"
            )
        return self


class TaskSpec(Strict):
    """The work of a task and its limits, without its agent."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_TEMPLATE)
    """A Jinja template, rendered in a sandbox with the execution's variables."""
    variables_schema: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema (2020-12) of the variables; empty accepts all variables."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema of the result; None accepts any result."""
    limits: Limits = Limits()
    concurrency: list[ConcurrencyLimit] = Field(default_factory=list, max_length=MAX_LIMITS)
    """How many executions with the same key may run at the same time."""
    rates: list[RateLimit] = Field(default_factory=list, max_length=MAX_LIMITS)
    """How many executions with the same key may begin in a time."""
    debounce: Debounce | None = None
    """Let the newest of several submissions with the same key run alone, after a pause."""
    retry: RetryPolicy = RetryPolicy()
    max_crashes: int = Field(default=3, ge=1, le=20)
    """After this many lost workers the execution fails with `worker_lost`."""
    queue: QueueName = DEFAULT_QUEUE
    expires_in: float | None = Field(default=None, gt=0, le=LONGEST_EXPIRY)
    """An execution that has not begun after so many seconds is cancelled with `expired`."""
    budget: Budget | None = None
    """The budget of each execution."""
    repository: Repository | None = None
    """The git repository whose checkout is the agent's working directory."""
    priority: PriorityLabel = Field(
        default=Priority.NORMAL, json_schema_extra={"default": Priority.NORMAL.label}
    )


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with its current specification. Versions count from 1; times are in UTC."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    name: str
    description: str
    version: int
    spec: AgentSpec
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its current specification and the agent that does it."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    name: str
    description: str
    active: bool
    agent_id: UUID
    agent_name: str
    version: int
    spec: TaskSpec
    created_at: datetime
    updated_at: datetime
