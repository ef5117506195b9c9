"""What a turn of a run leads to: actions for the caller, and the end of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from celeriac.db.engine import Connection
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import runs
from celeriac.domain.executions.events import EventType
from celeriac.domain.limits import LimitEnd
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.domain.workflows.states import Compensation, RunStatus, RunTransition, StepStatus
from celeriac.kit.json_types import JsonObject, JsonValue

DEADLINE = "deadline"
"""The error code of a run that has taken longer than its deadline."""


@dataclass(frozen=True, slots=True)
class SpawnItems:
    """Make the next items of a step."""

    step_no: int


@dataclass(frozen=True, slots=True)
class StopItems:
    """Let no more items of a step begin, and count down those that were not made."""

    step_no: int


@dataclass(frozen=True, slots=True)
class CancelItems:
    """Cancel the items of a stopped step: all, or only those that have not begun."""

    step_no: int
    all: bool


Action = SpawnItems | StopItems | CancelItems


@dataclass(slots=True)
class Turn:
    """The outcome of a turn."""

    actions: list[Action] = field(default_factory=list)
    released: int = 0
    """Executions that may run now."""
    events: list[tuple[EventType, JsonObject]] = field(default_factory=list)
    """What the log of the run gets."""
    ended: WorkflowRun | None = None
    """The run, if it has ended in this turn."""
    keys: list[str] = field(default_factory=list)
    """Keys of limits of which slots may be free, or for which the run waits from now on."""


_ENDS: Mapping[RunStatus, tuple[RunTransition, EventType]] = MappingProxyType(
    {
        RunStatus.COMPLETED: (RunTransition.COMPLETE, EventType.COMPLETED),
        RunStatus.FAILED: (RunTransition.FAIL, EventType.FAILED),
        RunStatus.CANCELLED: (RunTransition.CANCEL, EventType.CANCELLED),
    }
)


_OF_LIMITS = frozenset(each.value for each in LimitEnd)


def end_run(
    connection: Connection,
    run: WorkflowRun,
    outcome: RunStatus,
    turn: Turn,
    *,
    result: JsonValue = None,
    compensation: Compensation | None = None,
) -> None:
    """End a locked run: completed, failed or cancelled; it counts down as an item of its parent."""
    transition, event = _ENDS[outcome]
    if not runs.move(connection, run.id, transition, result=result, compensation=compensation):
        return
    facts: JsonObject = {}
    if outcome is RunStatus.FAILED:
        facts = {"code": run.error_code, "message": run.error_message, "step": run.error_step}
    elif outcome is RunStatus.CANCELLED and run.error_code in _OF_LIMITS:
        facts = {"code": run.error_code, "message": run.error_message}
    if compensation is not None:
        facts = {**facts, "compensation": compensation.value}
    turn.events.append((event, facts))
    turn.ended = replace(run, status=outcome, compensation=compensation)
    if run.parent_run_id is not None and run.parent_step_no is not None:
        as_item = {run.parent_item_no or 0: StepStatus(outcome.value)}
        item_rows.count_down(
            connection, run.parent_run_id, run.parent_step_no, as_item, child_run_id=run.id
        )
