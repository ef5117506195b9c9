"""The steps of a workflow under test, while it runs."""

from dataclasses import dataclass, field, replace

from celeriac.domain.workflows.states import STEP_TRANSITIONS, StepStatus, StepTransition
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.testing.workflow_runs import StepError, StepOutcome


@dataclass
class Item:
    """An item or a round of a step."""

    given: JsonObject | None = None
    """None if it never began."""
    result: JsonValue = None
    error: StepError | None = None
    shared: bool = False
    """Whether it has the execution of an earlier item with the same key."""


@dataclass
class StepState:
    """A step of a run that goes on; an undo step has the items that it undoes."""

    is_map: bool
    status: StepStatus = StepStatus.BLOCKED
    items: list[Item] = field(default_factory=list)
    """Of a repeat, one for each round."""
    error: StepError | None = None

    def move(self, transition: StepTransition, error: StepError | None = None) -> None:
        """Change the status by the rules of steps."""
        sources, target = STEP_TRANSITIONS[transition]
        assert self.status in sources, f"{transition} of a step that is {self.status}"
        self.status, self.error = target, error

    def outcome(self) -> StepOutcome:
        """Return what a test sees of the step."""
        given = tuple(each.given for each in self.items if each.given is not None)
        if not self.is_map:
            has_result = self.items and self.status in {StepStatus.COMPLETED, StepStatus.DENIED}
            result = self.items[-1].result if has_result else None
            return StepOutcome(self.status.value, result, self.error, given=given)
        began = self.status is StepStatus.COMPLETED or bool(self.items)
        return StepOutcome(
            self.status.value,
            error=self.error,
            results=tuple(each.result for each in self.items) if began else None,
            errors=tuple(
                replace(each.error, index=index)
                for index, each in enumerate(self.items)
                if each.error is not None
            ),
            given=given,
        )

    def seen(self) -> JsonObject:
        """Return what expressions see of the step."""
        step = self.outcome()
        error = None if step.error is None else _as_value(step.error)
        value = {"status": step.status, "result": step.result, "error": error}
        if not self.is_map:
            return value
        if step.results is None:
            return {**value, "results": None, "errors": None}
        errors = [{"index": each.index, **_as_value(each)} for each in step.errors]
        return {**value, "results": [*step.results], "errors": errors}


def _as_value(error: StepError) -> dict[str, JsonValue]:
    return {"code": error.code, "message": error.message}
