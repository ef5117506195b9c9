"""What a test sees of a run of a workflow."""

from collections.abc import Mapping
from dataclasses import dataclass

from celeriac.domain.approvals import Question
from celeriac.kit.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class StepError:
    """Why a run, a step or an item failed."""

    code: str
    message: str
    step: str | None = None
    """Of a run: the step that failed it; None if `returns` did."""
    index: int | None = None
    """Of an item of a map."""
    below: str | None = None
    """The step that failed in the workflow that the step runs, as a path: `draft/check`."""

    def __str__(self) -> str:
        place = "/".join(filter(None, (self.step, self.below)))
        place = f"step {place}: " if place else ""
        item = "" if self.index is None else f"item {self.index}: "
        return f"{place}{item}{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a step has ended, as expressions see it, and what it was given."""

    status: str
    """`completed`, `failed`, `skipped`, `denied` or `cancelled`."""
    result: JsonValue = None
    """Of an approval, the answer; of a map, None."""
    error: StepError | None = None
    results: tuple[JsonValue, ...] | None = None
    """Of a map: in the order of its items, None for those that failed."""
    errors: tuple[StepError, ...] = ()
    """Of a map: those of the items that failed."""
    given: tuple[JsonObject, ...] = ()
    """What `with` gave each item or round that ran; of an approval, what it showed."""


@dataclass(frozen=True)
class WorkflowRun:
    """How a run of a workflow has ended. `print` shows its steps."""

    workflow: str
    status: str
    """`completed` or `failed`."""
    error: StepError | None
    """Of a failed run: which step failed it, and why."""
    steps: Mapping[str, StepOutcome]
    undone: Mapping[str, StepOutcome]
    """How the undo tasks have ended, by the steps that they undo."""
    compensation: str | None
    """`compensated` or `compensation_failed`, if undo tasks ran."""
    questions: tuple[Question, ...]
    """The questions of approval steps."""
    returned: JsonValue = None

    @property
    def result(self) -> JsonValue:
        """The result of the run. Raises AssertionError, with the step and why, if it failed."""
        if self.error is not None:
            raise AssertionError(str(self))
        return self.returned

    def __str__(self) -> str:
        lines = [f"The run of {self.workflow!r} is {self.status}."]
        if self.error is not None:
            lines = [f"The run of {self.workflow!r} failed: {self.error}"]
        for name, step in self.steps.items():
            lines.append(f"  {name}: {step.status}{f', {step.error}' if step.error else ''}")
            lines += [f"    {error}" for error in step.errors]
        for name, step in self.undone.items():
            lines.append(f"  undo of {name}: {step.status}")
            lines += [f"    {error}" for error in step.errors]
        return "\n".join(lines)
