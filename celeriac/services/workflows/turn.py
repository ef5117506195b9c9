"""One turn of a run: all that can be decided about it now, in one transaction.

The transaction holds the lock of the run and of the steps that are due. An item that ends meanwhile
makes its step due after it. What takes long, or locks the counters of items, is left to the caller
as an action; the step stays due until it is done, so the next process that takes a turn does it.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from celeriac.db.engine import Connection
from celeriac.db.executions import lifecycle
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows.steps import Move
from celeriac.domain.errors import CeleriacError, UnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.expressions import ExpressionError
from celeriac.domain.expressions.templates import render
from celeriac.domain.workflows.items import (
    TOO_MANY_FAILURES,
    Ended,
    allowed_failures,
    is_strict,
    settled_as,
    too_many_failures,
)
from celeriac.domain.workflows.model import RunFailure, Step, StepKind
from celeriac.domain.workflows.records import StepRun
from celeriac.domain.workflows.runs import advance, outcome_of_run, settled
from celeriac.domain.workflows.states import (
    STEP_TRANSITIONS,
    RunStatus,
    RunTransition,
    StepStatus,
    StepTransition,
)
from celeriac.kit.json_types import JsonValue
from celeriac.services.workflows import questions, undo
from celeriac.services.workflows.limits import end_unbegun, use_slots
from celeriac.services.workflows.map_items import list_of
from celeriac.services.workflows.outcomes import CancelItems, SpawnItems, StopItems, Turn, end_run
from celeriac.services.workflows.plans import Plan
from celeriac.services.workflows.values import RunValues, holds, result_of

_OF_STATUS = {
    StepStatus.READY: StepTransition.UNBLOCK,
    StepStatus.SKIPPED: StepTransition.SKIP,
    StepStatus.CANCELLED: StepTransition.CANCEL,
}


def take_turn(connection: Connection, run_id: Any, plan: Plan, values: RunValues) -> Turn:
    """Do what can be done for a run now. Needs a transaction."""
    run = runs.lock(connection, run_id)
    turn = Turn()
    if run is None:
        return turn
    due = rows.take_due(connection, run_id)
    if run.status.terminal:
        rows.clear_due(connection, run_id, due)
        return turn
    slots = limit_rows.of_run(connection, run_id) if run.limited else []
    if run.status is RunStatus.PENDING:
        end_unbegun(connection, run, turn)
        rows.clear_due(connection, run_id, due)
        runs.log(connection, run_id, turn.events)
        turn.keys = [slot.key for slot in slots] if turn.ended is not None else []
        return turn
    values.run = run
    if run.status is RunStatus.COMPENSATING:
        undo.take_turn(connection, run, plan, turn, due)
    else:
        _Turn(connection, plan, values, rows.of_run(connection, run_id), turn).take(set(due))
    if slots:
        use_slots(connection, run, plan, slots, turn)
    runs.log(connection, run_id, turn.events)
    waiting = {action.step_no for action in turn.actions}
    rows.clear_due(connection, run_id, [no for no in due if no not in waiting])
    return turn


class _Turn:
    def __init__(
        self,
        connection: Connection,
        plan: Plan,
        values: RunValues,
        steps: Sequence[StepRun],
        turn: Turn,
    ) -> None:
        self._connection = connection
        self._run = values.run
        self._plan = plan
        self._values = values
        self._steps = {step.step: step for step in steps}
        self._turn = turn
        self._moves: list[Move] = []

    # facts

    @property
    def _cancelled(self) -> bool:
        return self._run.cancel_requested_at is not None

    @property
    def _stopped(self) -> RunStatus | None:
        """How the run ends for another reason than its steps."""
        if self._cancelled:
            return RunStatus.CANCELLED
        return RunStatus.FAILED if self._run.overdue else None

    @property
    def _stops(self) -> bool:
        """Whether no further ordinary step may begin."""
        return self._stopped is not None or self._run.error_code is not None

    @property
    def _stops_all(self) -> bool:
        """Whether what runs is stopped, too."""
        return self._stopped is not None or (
            self._stops and self._plan.spec.on_failure is RunFailure.CANCEL_RUNNING
        )

    def _statuses(self) -> dict[str, StepStatus]:
        return {name: step.status for name, step in self._steps.items()}

    def _spec(self, step: StepRun) -> Step:
        return self._plan.spec.steps[step.step]

    def _scope(self, wanted: Sequence[str], *, last: bool, **more: JsonValue) -> dict[str, Any]:
        self._flush()
        return self._values.scope(
            self._connection,
            self._plan.spec.steps,
            self._steps.values(),
            wanted,
            last=last,
            **more,
        )

    # the turn

    def take(self, due: Collection[int]) -> None:
        for step in self._running():
            if step.shards_left == 0 and step.spawned >= step.width:
                self._settle(step, self._spec(step))
        self._begin_steps()
        for step in self._running():
            self._go_on(step, self._spec(step), due=step.step_no in due)
        self._finish()
        self._flush()

    def _running(self) -> list[StepRun]:
        return [step for step in self._steps.values() if step.status is StepStatus.RUNNING]

    def _go_on(self, step: StepRun, spec: Step, *, due: bool) -> None:
        """Make more items of a running step, or stop it."""
        stops = self._stops and not spec.is_last
        everything = self._stops_all and not spec.is_last
        if step.stopping:
            if self._has_live(step, everything=everything):
                self._turn.actions.append(CancelItems(step.step_no, everything))
        elif stops or step.failed > allowed_failures(spec, step.width):
            self._turn.actions.append(StopItems(step.step_no))
        else:
            if step.spawned < step.width:
                self._turn.actions.append(SpawnItems(step.step_no))
            if due and step.parallel is not None and step.kind is StepKind.TASK:
                self._turn.released += lifecycle.release_parallel(
                    self._connection, self._run.id, step.step_no, parallel=step.parallel
                )

    def _has_live(self, step: StepRun, *, everything: bool) -> bool:
        if step.kind is StepKind.WORKFLOW:
            return everything and bool(
                runs.live_children(self._connection, self._run.id, step.step_no, limit=1)
            )
        return bool(
            item_rows.live_executions(
                self._connection,
                self._run.id,
                step_no=step.step_no,
                started=everything,
                limit=1,
            )
        )

    def _settle(self, step: StepRun, spec: Step) -> None:
        if step.kind is StepKind.APPROVE:
            self._move(step, *questions.settled_by(self._connection, step, spec))
            return
        stopped = self._stops and not spec.is_last
        allowed = allowed_failures(spec, step.width)
        ended = Ended(step.width, step.failed, step.cancelled)
        transition = settled_as(ended, allowed=allowed, stopped=stopped)
        if transition is StepTransition.COMPLETE and spec.repeat is not None:
            try:
                again = self._again(step, spec)
            except ExpressionError as error:
                self._move(step, StepTransition.FAIL, error.code, error.message)
                return
            if again and not stopped:
                self._begin_items(step, spec, width=1, round_no=step.round + 1)
                return
        if transition is StepTransition.FAIL:
            self._move(step, transition, *self._error_of(step, spec, allowed))
        else:
            self._move(step, transition)

    def _again(self, step: StepRun, spec: Step) -> bool:
        assert spec.repeat is not None
        if step.round >= spec.repeat.max:
            return False
        result = result_of(self._connection, step)
        scope = self._scope(
            self._plan.needs(step.step_no), last=spec.is_last, result=result, index=step.round - 1
        )
        return not holds(spec.repeat.until, scope)

    def _error_of(self, step: StepRun, spec: Step, allowed: int) -> tuple[str, str]:
        if spec.map is not None:
            failed = item_rows.first_failed(self._connection, step.run_id, step.step_no, step.round)
            first = None
            if failed is not None:
                first = failed.item_no, failed.error_message or failed.error_code or ""
            said = too_many_failures(step.failed, step.width, allowed, first=first)
            return TOO_MANY_FAILURES, said
        found = item_rows.items(
            self._connection, step.run_id, step.step_no, step.round, after=-1, limit=1,
            results=False,
        )  # fmt: skip
        error = found[0] if found else None
        code = None if error is None else error.error_code
        message = None if error is None else error.error_message
        return code or "failed", message or "The step failed."

    def _begin_steps(self) -> None:
        """Unblock steps and begin those that are ready, until nothing changes."""
        while True:
            changes = advance(self._plan.graph, self._statuses(), stopped=self._stopped)
            for change in changes:
                self._move(self._steps[change.step], _OF_STATUS[change.status])
            ready = [step for step in self._steps.values() if step.status is StepStatus.READY]
            for step in ready:
                if self._steps[step.step].status is StepStatus.READY:
                    self._begin(step, self._spec(step))
            if not changes and not ready:
                return

    def _begin(self, step: StepRun, spec: Step) -> None:
        try:
            scope = self._scope(self._plan.needs(step.step_no), last=spec.is_last)
            if spec.when is not None and not holds(spec.when, scope):
                self._move(step, StepTransition.SKIP)
                return
            width = _width(spec, scope)
        except UnavailableError:
            raise
        except CeleriacError as error:
            self._move(step, StepTransition.FAIL, error.code, error.message)
            return
        self._begin_items(step, spec, width=width, round_no=1)
        self._move(
            self._steps[step.step],
            StepTransition.START if width else StepTransition.COMPLETE,
            width=width,
        )

    def _begin_items(self, step: StepRun, spec: Step, *, width: int, round_no: int) -> None:
        parallel = spec.parallel if spec.parallel is not None and spec.parallel < width else None
        shards = rows.begin(
            self._connection,
            self._run.id,
            step.step_no,
            width=width,
            round_no=round_no,
            parallel=parallel,
            strict=is_strict(spec, width),
        )
        self._steps[step.step] = replace(
            step, width=width, round=round_no, spawned=0, shards_left=shards, parallel=parallel,
            remaining=width, completed=0, failed=0, cancelled=0,
        )  # fmt: skip
        if round_no > 1:
            self._log(step, StepStatus.RUNNING, round=round_no)

    def _move(
        self,
        step: StepRun,
        transition: StepTransition,
        code: str | None = None,
        message: str | None = None,
        **facts: JsonValue,
    ) -> None:
        step = self._steps[step.step]
        status = STEP_TRANSITIONS[transition][1]
        self._moves.append(Move(step.step_no, transition, code, message))
        self._steps[step.step] = replace(
            step, status=status, error_code=code, error_message=message
        )
        if code is not None:
            facts = {**facts, "code": code, "message": message}
        if status is not StepStatus.READY:
            self._log(step, status, **facts)
        if status is StepStatus.FAILED and not self._spec(step).tolerated:
            self._fail(code or "failed", message or "The step failed.", step.step)
        elif status is StepStatus.CANCELLED and not (self._stops or self._spec(step).tolerated):
            self._fail("step_cancelled", "The step was cancelled.", step.step)

    def _log(self, step: StepRun, status: StepStatus, **facts: JsonValue) -> None:
        said = {"step": step.step, "status": status.value, **facts}
        self._turn.events.append((EventType.STEP, said))

    def _fail(self, code: str, message: str, step: str | None) -> None:
        if runs.fail(self._connection, self._run.id, code=code, message=message, step=step):
            self._run = replace(self._run, error_code=code, error_message=message, error_step=step)
            self._values.run = self._run

    def _finish(self) -> None:
        """Change the status of the run if its steps have settled."""
        graph, statuses = self._plan.graph, self._statuses()
        if not settled(graph, statuses):
            return
        if not all(status.terminal for status in statuses.values()):
            if self._run.status is RunStatus.RUNNING:
                runs.move(self._connection, self._run.id, RunTransition.FINISH)
            return
        outcome = outcome_of_run(graph, statuses, stopped=self._stopped)
        result = None
        if outcome is RunStatus.COMPLETED and self._plan.spec.returns is not None:
            try:
                result = render(
                    self._plan.spec.returns, self._scope(self._plan.returned, last=True)
                )
            except ExpressionError as error:
                self._fail(error.code, f"returns: {error.message}", None)
                outcome = RunStatus.FAILED
        self._flush()
        if outcome is not RunStatus.COMPLETED and undo.begin(
            self._connection, self._run, self._plan
        ):
            undo.take_turn(self._connection, self._run, self._plan, self._turn)
        else:
            end_run(self._connection, self._run, outcome, self._turn, result=result)

    def _flush(self) -> None:
        """Write the changes of steps: expressions read what was stored."""
        rows.move(self._connection, self._run.id, self._moves)
        self._moves.clear()


def _width(spec: Step, scope: dict[str, Any]) -> int:
    """Return how many items a step has. Raises ExpressionError and TooLargeError."""
    return 1 if spec.map is None else len(list_of(spec.map, scope))
