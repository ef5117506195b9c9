"""The specification of a workflow: what a valid document holds (docs/workflows.md).

A specification is immutable and versioned; a run keeps the version that it began with. This module
has the shapes. `validation` checks what holds between fields and steps, `graph` derives the order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from celeriac.domain.base import Name, Shape, Strict
from celeriac.domain.expressions import MAX_CHARACTERS
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.tasks import PriorityLabel, QueueName, RetryPolicy
from celeriac.kit.json_types import JsonValue

MAX_STEPS: Final = 500
MAX_DEPTH: Final = 8
"""Levels of workflows: a run, the runs that its steps start, and so on."""
MAX_ITEMS: Final = 100_000
"""Items of one map."""
MAX_ROUNDS: Final = 1_000
"""Rounds of one repeat."""
MAX_YEAR: Final = 31_536_000

StepId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60),
    Shape(
        r"[A-Za-z][A-Za-z0-9_]*",
        "begin with a letter, and use letters, digits and '_' only",
    ),
]
"""The id of a step: its key in `steps`."""

Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)]
"""A CEL expression, without `${{ }}`."""

_DURATION = r"([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?"
_PARTS = re.compile(r"(\d+)([dhms])")
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION_WORDS = "write seconds as a number, or a duration such as 45s, 2m, 1h30m or 2d"


def seconds_of(written: object) -> object:
    """Return a duration such as `1h30m` in seconds; numbers are returned unchanged.

    Raises ValueError for another text.
    """
    if not isinstance(written, str):
        return written
    if not written or re.fullmatch(_DURATION, written, re.ASCII) is None:
        raise ValueError(_DURATION_WORDS)
    return float(sum(int(number) * _UNITS[unit] for number, unit in _PARTS.findall(written)))


_NUMBER = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_YEAR}
_WRITTEN_DURATION = {
    "anyOf": [_NUMBER, {"type": "string", "pattern": f"^(?=.){_DURATION}$"}],
    "description": "Seconds, or a duration such as 45s, 2m, 1h30m or 2d.",
}

Seconds = Annotated[
    float,
    Field(gt=0, le=MAX_YEAR),
    BeforeValidator(seconds_of),
    WithJsonSchema(_WRITTEN_DURATION, mode="validation"),
]
"""A duration in seconds."""


class StepKind(StrEnum):
    """The kind of a step."""

    TASK = "task"
    WORKFLOW = "workflow"
    APPROVE = "approve"


class RunOn(StrEnum):
    """When a step runs."""

    SUCCESS = "success"
    """After what it needs, while the run has not failed."""
    FAILURE = "failure"
    """After the ordinary steps have settled, if the run has failed."""
    ALWAYS = "always"
    """After the ordinary steps have settled, also if the run has failed or was cancelled."""


class StepFailure(StrEnum):
    """What the failure of a step means to its run."""

    FAIL = "fail"
    """The run fails; no further ordinary step begins."""
    CONTINUE = "continue"
    """The steps that need it see the status `failed` and the result null."""


class RunFailure(StrEnum):
    """What happens to the running steps when a run fails."""

    FINISH_RUNNING = "finish_running"
    CANCEL_RUNNING = "cancel_running"


class UndoOn(StrEnum):
    """Which steps are undone."""

    COMPLETED = "completed"
    STARTED = "started"
    """Also steps that began and failed, or were cancelled: they may have had effects."""


class NoAnswer(StrEnum):
    """What happens when an approval isn't given."""

    SKIP = "skip"
    """The step is `denied`, and the steps that need it are skipped."""
    FAIL = "fail"
    """The step fails."""


DEFAULT_SOFT_SECONDS: Final = 240.0
DEFAULT_HARD_SECONDS: Final = 300.0
_SOFT_SHARE: Final = DEFAULT_SOFT_SECONDS / DEFAULT_HARD_SECONDS


class Timeout(Strict):
    """The limits of one attempt of a step; at the hard one it is stopped by force.

    A duration alone is the hard limit. The soft limit is four fifths of the hard one, where only
    one of them is given.
    """

    soft: Seconds = DEFAULT_SOFT_SECONDS
    hard: Seconds = DEFAULT_HARD_SECONDS


def _timeout(written: object) -> object:
    if isinstance(written, dict):
        given = {**written}
        if "hard" in given and "soft" not in given:
            given["soft"] = _times(given["hard"], _SOFT_SHARE)
        elif "soft" in given and "hard" not in given:
            given["hard"] = _times(given["soft"], 1 / _SOFT_SHARE)
        return given
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        return written
    hard = seconds_of(written)
    return {"soft": _times(hard, _SOFT_SHARE), "hard": hard}


def _times(duration: object, factor: float) -> object:
    """Return a duration times a factor; what is none is returned unchanged, for its own fault."""
    try:
        seconds = seconds_of(duration)
    except ValueError:
        return DEFAULT_SOFT_SECONDS
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return min(seconds * factor, MAX_YEAR) if is_number else DEFAULT_SOFT_SECONDS  # type: ignore[operator]


def _retry(written: object) -> object:
    if isinstance(written, int) and not isinstance(written, bool):
        return {"max_retries": written}
    if not isinstance(written, dict | RetryPolicy):
        raise ValueError("write a number of retries, or an object with max_retries")  # noqa: TRY004 - pydantic reports it
    return written


def _undo(written: object) -> object:
    return {"task": written} if isinstance(written, str) else written


@dataclass(frozen=True, slots=True, eq=False)
class AlsoWritten:
    """Adds a shorter way of writing a value to its JSON schema."""

    schema: Mapping[str, Any]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the JSON schema with both ways."""
        found = handler(schema)
        if handler.mode != "validation":
            return found
        return {"anyOf": [dict(self.schema), found]}


StepTimeout = Annotated[Timeout, BeforeValidator(_timeout), AlsoWritten(_WRITTEN_DURATION)]
StepRetry = Annotated[
    RetryPolicy,
    BeforeValidator(_retry),
    AlsoWritten({"type": "integer", "minimum": 0, "maximum": 100}),
]


class Undo(Strict):
    """The task that takes the effects of a step back; its variables are input, result and error.

    `input` is what the step's `with` gave.
    """

    task: Name
    on: UndoOn = Field(default=UndoOn.COMPLETED, strict=False)


StepUndo = Annotated[Undo, BeforeValidator(_undo), AlsoWritten({"type": "string"})]


class Repeat(Strict):
    """Runs a step again until a condition on its result holds, at most `max` rounds.

    After the last round the step completes with that round's result, whether or not it holds.
    """

    until: Expression
    max: int = Field(ge=1, le=MAX_ROUNDS)


class MaxFailures(Strict):
    """How many items of a map may fail: a number, or a share of all items in percent."""

    items: int | None = Field(default=None, ge=0)
    percent: float | None = Field(default=None, ge=0, le=100)

    def allowed(self, width: int) -> int:
        """Return how many of `width` items may fail."""
        if self.items is not None:
            return self.items
        return int(width * (self.percent or 0) / 100)


_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


def _max_failures(written: object) -> object:
    if isinstance(written, int) and not isinstance(written, bool):
        return {"items": written}
    if isinstance(written, str):
        found = _PERCENT.fullmatch(written)
        if found is None:
            raise ValueError("write a number of items, or a share such as 5%")
        return {"percent": float(found[1])}
    return written


StepMaxFailures = Annotated[
    MaxFailures,
    BeforeValidator(_max_failures),
    AlsoWritten(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"},
            ]
        }
    ),
]


class Step(Strict):
    """A step: exactly one of `task`, `workflow` and `approve`, and how it runs."""

    model_config = ConfigDict(serialize_by_alias=True, use_attribute_docstrings=True)

    task: Name | None = None
    """The name of the task that it runs."""
    workflow: Name | None = None
    """The name of the workflow that it runs."""
    approve: str | None = Field(default=None, min_length=1, max_length=2_000)
    """The question that a person answers with yes or no."""

    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Variables of the task, or input of the workflow; texts may hold `${{ expression }}`."""
    needs: tuple[StepId, ...] = Field(default=(), strict=False, max_length=MAX_STEPS)
    """Steps that must settle first, besides those that its expressions name."""
    when: Expression | None = None
    """Evaluated when the step is ready; if it is false, the step is skipped."""
    run: RunOn = Field(default=RunOn.SUCCESS, strict=False)
    on_failure: StepFailure = Field(default=StepFailure.FAIL, strict=False)

    map: Expression | None = None
    """A list; the step runs once for each `item`."""
    key: Expression | None = None
    """A text for each item; items with the same one run once."""
    parallel: int | None = Field(default=None, ge=1, le=10_000)
    """How many items run at the same time at most; None: no limit of its own."""
    max_failures: StepMaxFailures | None = None
    """More failed items fail the step and its run, whatever `on_failure` says.

    None: with `on_failure: fail` no item may fail, with `continue` all may.
    """
    repeat: Repeat | None = None

    undo: StepUndo | None = None
    retry: StepRetry | None = None
    """None: the task's own policy."""
    timeout: StepTimeout = Timeout()
    """Of each attempt of a task."""
    priority: PriorityLabel | None = None
    """None: that of the run."""
    queue: QueueName | None = None
    """None: that of the task."""

    show: JsonValue = None
    """What the person sees who approves; texts may hold `${{ expression }}`."""
    expires: Seconds | None = None
    """How long an approval may be given; None: until the run ends."""
    on_expiry: NoAnswer = Field(default=NoAnswer.FAIL, strict=False)
    on_denial: NoAnswer = Field(default=NoAnswer.SKIP, strict=False)

    @property
    def kind(self) -> StepKind:
        """The kind of the step."""
        if self.task is not None:
            return StepKind.TASK
        return StepKind.WORKFLOW if self.workflow is not None else StepKind.APPROVE

    @property
    def target(self) -> str:
        """The name of its task or workflow, or its question."""
        return self.task or self.workflow or self.approve or ""

    @property
    def tolerated(self) -> bool:
        """Whether the run goes on when the step fails."""
        return self.on_failure is StepFailure.CONTINUE and self.max_failures is None

    def allowed_failures(self, width: int) -> int:
        """Return how many of the `width` items of a map may fail before the step does."""
        if self.max_failures is not None:
            return self.max_failures.allowed(width)
        return width if self.on_failure is StepFailure.CONTINUE else 0

    @property
    def is_last(self) -> bool:
        """Whether it runs after all ordinary steps have settled."""
        return self.run is not RunOn.SUCCESS


class Limit(Strict):
    """How many runs with the same key may run at the same time."""

    key: Expression
    max: int = Field(ge=1, le=1_000_000)
    policy: LimitPolicy = Field(default=LimitPolicy.QUEUE, strict=False)
    count: LimitCount = Field(default=LimitCount.RUNNING, strict=False)


_TYPES = ("string", "integer", "number", "boolean", "object", "array")


def _input(written: object) -> object:
    """Return the JSON schema of an input that is written as its fields."""
    if not isinstance(written, Mapping) or is_schema(written):
        return written
    properties: dict[str, object] = {}
    required = []
    for name, field in written.items():
        kind = field.removesuffix("?") if isinstance(field, str) else None
        if kind is not None and kind in _TYPES:
            optional = kind != field
            properties[name] = {"type": [kind, "null"] if optional else kind}
        elif isinstance(field, Mapping):
            optional = "default" in field
            properties[name] = dict(field)
        else:
            raise ValueError(
                f"{name} must be a type ({', '.join(_TYPES)}; with '?' it is optional) or a "
                "JSON schema"
            )
        if not optional:
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def is_schema(written: Mapping[Any, Any]) -> bool:
    """Whether an input is written as a JSON schema, not as its fields."""
    return written.get("type") == "object" or "$schema" in written


_WRITTEN_INPUT = {
    "type": "object",
    "description": "For each field a type (string, integer, number, boolean, object, array; with "
    "'?' it is optional) or a JSON schema; or one JSON schema of type object.",
}

InputSchema = Annotated[
    dict[str, Any],
    BeforeValidator(_input),
    WithJsonSchema(_WRITTEN_INPUT, mode="validation"),
]


class WorkflowSpec(Strict):
    """The content of a workflow: everything of its document but name and description."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    input: InputSchema = Field(
        default_factory=lambda: {
            "type": "object", "properties": {}, "required": [], "additionalProperties": False,
        }
    )  # fmt: skip
    """JSON schema of the input of a run."""
    steps: dict[StepId, Step] = Field(min_length=1, max_length=MAX_STEPS)
    limits: tuple[Limit, ...] = Field(default=(), strict=False, max_length=10)
    deadline: Seconds | None = None
    """How long a run may take, from its submission; then it fails with `deadline`."""
    on_failure: RunFailure = Field(default=RunFailure.FINISH_RUNNING, strict=False)
    priority: PriorityLabel | None = None
    """Of the executions of its runs; None: that of each task."""
    returns: JsonValue = None
    """The result of a run; texts may hold `${{ expression }}`."""
    order: tuple[str, ...] = Field(default=(), strict=False)
    """The steps in the order of the document, which JSON in the database doesn't keep."""

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, value: object) -> object:
        if not isinstance(value, dict) or not isinstance(value.get("steps"), dict):
            return value
        steps, stored = value["steps"], value.get("order")
        known = stored if isinstance(stored, list | tuple) else ()
        order = dict.fromkeys([*(id_ for id_ in map(str, known) if id_ in steps), *steps])
        return {**value, "steps": {id_: steps[id_] for id_ in order}, "order": [*order]}
