"""Compensation: what a run undoes that failed or was cancelled, and the turns in which it does so.

It begins when all other steps of the run have settled. From then on nothing stops it: neither a
cancellation nor a deadline. The undo steps are steps of the run, and their items executions, with
the same counters and the same repair as all others.
"""

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.executions import lifecycle
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows import undo as undo_rows
from celeriac.db.workflows.steps import Move
from celeriac.db.workflows.undo import Undoable
from celeriac.domain.executions.events import EventType
from celeriac.domain.workflows.model import UndoOn
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.domain.workflows.states import (
    STEP_TRANSITIONS,
    RunStatus,
    RunTransition,
    StepStatus,
    StepTransition,
)
from celeriac.domain.workflows.undo import compensation_of, may_begin
from celeriac.kit.json_types import JsonObject
from celeriac.kit.text import clip
from celeriac.kit.words import counted
from celeriac.services.workflows.outcomes import SpawnItems, Turn, end_run
from celeriac.services.workflows.plans import Plan

_SHOWN = 300
"""Characters of an item's error in that of its undo step."""


def undoable(plan: Plan) -> list[Undoable]:
    """Return the steps of a workflow that have an undo task.

    The rounds of a repeat are undone one after the other, as they were done.
    """
    found = []
    for no in plan.undone:
        step = plan.step(no)
        assert step.undo is not None
        parallel = step.parallel if step.repeat is None else 1
        found.append(Undoable(no, step.undo.on is UndoOn.STARTED, parallel))
    return found


def begin(connection: Connection, run: WorkflowRun, plan: Plan) -> bool:
    """Begin the compensation of a locked run whose steps have settled.

    False if it has done nothing that can be undone.
    """
    if not plan.undone or not undo_rows.plan(connection, run.id, len(plan.names), undoable(plan)):
        return False
    return runs.move(connection, run.id, RunTransition.COMPENSATE)


def begin_again(connection: Connection, origin: WorkflowRun, run_id: UUID, plan: Plan) -> None:
    """Begin the compensation of a new run with what failed of that of an ended one.

    The new run has the steps of the other one as they ended, and ends as it did.
    """
    rows.take_over(connection, run_id, origin.id, list(plan.numbers.values()))
    undo_rows.take_over(connection, run_id, origin.id, len(plan.names), undoable(plan))
    if origin.status is RunStatus.FAILED:
        runs.fail(
            connection,
            run_id,
            code=origin.error_code or "failed",
            message=origin.error_message or "",
            step=origin.error_step,
        )
    runs.move(connection, run_id, RunTransition.COMPENSATE)


def take_turn(
    connection: Connection, run: WorkflowRun, plan: Plan, turn: Turn, due: Collection[int] = ()
) -> None:
    """Do what can be done for a locked run that is being compensated; `due` are locked steps."""
    steps = rows.of_run(connection, run.id)
    _UndoTurn(connection, run, plan, steps, turn).take(due)


class _UndoTurn:
    def __init__(
        self,
        connection: Connection,
        run: WorkflowRun,
        plan: Plan,
        steps: Collection[StepRun],
        turn: Turn,
    ) -> None:
        self._connection = connection
        self._run = run
        self._plan = plan
        self._steps = {step.undoes: step for step in steps if step.undoes is not None}
        self._turn = turn
        self._moves: list[Move] = []

    def take(self, due: Collection[int]) -> None:
        for step in self._running():
            if step.shards_left == 0 and step.spawned >= step.width:
                self._settle(step)
        self._begin_steps()
        rows.move(self._connection, self._run.id, self._moves)
        for step in self._running():
            self._go_on(step, due=step.step_no in due)
        if all(step.status.terminal for step in self._steps.values()):
            self._end()

    def _running(self) -> list[StepRun]:
        return [step for step in self._steps.values() if step.status is StepStatus.RUNNING]

    def _settle(self, step: StepRun) -> None:
        if step.completed == step.width:
            self._move(step, StepTransition.COMPLETE)
        else:
            self._move(step, StepTransition.FAIL, *self._error_of(step))

    def _error_of(self, step: StepRun) -> tuple[str, str]:
        found = undo_rows.first_not_undone(self._connection, step.run_id, step.step_no)
        code = "undo_failed" if found is None else found.error_code or found.status
        why = "" if found is None else found.error_message or f"The execution is {found.status}."
        if step.width == 1 or found is None:
            return code, why
        said = f"{step.width - step.completed} of {counted(step.width, 'item')} were not undone. "
        return "undo_failed", f"{said}Item {found.item_no}: {clip(why, _SHOWN)}"

    def _begin_steps(self) -> None:
        statuses = {name: step.status for name, step in self._steps.items()}
        ready = [self._steps[name] for name in may_begin(self._plan.graph, statuses)]
        for step in ready:
            self._moves.append(Move(step.step_no, StepTransition.UNBLOCK))
            self._move(step, StepTransition.START, width=step.width)
        undo_rows.set_due(self._connection, self._run.id, [step.step_no for step in ready])

    def _go_on(self, step: StepRun, *, due: bool) -> None:
        """Make more items; the rounds of a repeat one by one."""
        live = step.spawned - step.completed - step.failed - step.cancelled
        one_by_one = self._plan.undoes(step.step_no).repeat is not None
        if step.spawned < step.width and not (one_by_one and live):
            self._turn.actions.append(SpawnItems(step.step_no))
        if due and step.parallel is not None:
            self._turn.released += lifecycle.release_parallel(
                self._connection, self._run.id, step.step_no, parallel=step.parallel
            )

    def _move(
        self,
        step: StepRun,
        transition: StepTransition,
        code: str | None = None,
        message: str | None = None,
        width: int | None = None,
    ) -> None:
        status = STEP_TRANSITIONS[transition][1]
        self._moves.append(Move(step.step_no, transition, code, message))
        assert step.undoes is not None
        self._steps[step.undoes] = replace(step, status=status)
        facts: JsonObject = {"step": step.step, "undoes": step.undoes, "status": status.value}
        if code is not None:
            facts = {**facts, "code": code, "message": message}
        if width is not None:
            facts = {**facts, "width": width}
        self._turn.events.append((EventType.STEP, facts))

    def _end(self) -> None:
        """End the run as it would have ended without undo tasks."""
        run = self._run
        failed = run.error_code is not None and run.cancel_requested_at is None
        outcome = RunStatus.FAILED if failed else RunStatus.CANCELLED
        compensation = compensation_of(step.status for step in self._steps.values())
        end_run(self._connection, run, outcome, self._turn, compensation=compensation)
