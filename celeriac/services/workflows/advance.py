"""Advances runs: what follows when items of their steps have ended.

The process that ends an item calls this after its commit. A step that is due says so in its row, so
nothing is lost if that process dies: the keeper advances runs with steps that have been due for a
while.
Any number of processes may advance one run at the same time; each turn locks the run.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import workspaces
from celeriac.db.engine import Database
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import questions, runs
from celeriac.db.workflows import steps as rows
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.stop import DELETED_SECONDS, DELETED_WORKSPACE, Cancel
from celeriac.services.workflows.deadlocks import Deadlocks
from celeriac.services.workflows.limits import RunLimits
from celeriac.services.workflows.new_runs import actor_of
from celeriac.services.workflows.outcomes import (
    DEADLINE,
    Action,
    CancelItems,
    SpawnItems,
    StopItems,
    Turn,
)
from celeriac.services.workflows.plans import Plan, Plans
from celeriac.services.workflows.spawn import Spawn
from celeriac.services.workflows.turn import take_turn
from celeriac.services.workflows.undo_items import SpawnUndo
from celeriac.services.workflows.values import RunValues

logger = structlog.get_logger(__name__)

_CANCELLED_AT_ONCE = 500
_REPAIRED_AFTER_SECONDS = 2.0
"""How long a step is due before the keeper takes care of it."""

_BY_ENGINE = "workflow"


@dataclass(frozen=True, slots=True)
class _Done:
    """What an action has led to."""

    others: Collection[UUID] = ()
    """Runs below to advance."""
    whole: bool = False
    """The run needs no other turn because of it."""


class Advance:
    """Advances runs. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        spawn: Spawn,
        dispatch: Dispatch,
        cancel: Cancel,
        *,
        call_due: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `call_due` when a run has ended that a Celery task has started.

        Without it the keeper ends the task.
        """
        self._database = database
        self._plans = plans
        self._spawn = spawn
        self._spawn_undo = SpawnUndo(database, spawn.of_task)
        self._dispatch = dispatch
        self._cancel = cancel
        self._live = dispatch.live
        self._limits = RunLimits(database, self.cancel)
        self._deadlocks = Deadlocks(database, self.cancel)
        self._call_due = call_due

    def __call__(self, run_id: UUID, *, seconds: float | None = None) -> bool:
        """Do all that can be done for a run now, and for the runs above and below it.

        Stops after `seconds`, with False; the keeper continues. Raises what the database raises:
        nothing is lost by that.
        """
        until = None if seconds is None else time.monotonic() + seconds
        todo = [run_id]
        while todo:
            for other in self._run(todo.pop(), until):
                if other not in todo:
                    todo.append(other)
            if until is not None and time.monotonic() > until:
                return not todo
        return True

    def after(self, run_ids: Sequence[UUID], *, seconds: float | None = None) -> None:
        """Advance runs of which items have just ended, if anything is due. Never raises.

        Stops with each after `seconds`; the keeper continues.
        """
        for run_id in run_ids:
            try:
                with self._database.autocommit() as connection:
                    due = rows.is_due(connection, run_id)
                if due:
                    self(run_id, seconds=seconds)
            except DatabaseUnavailableError as error:
                logger.warning("workflow.not_advanced", run_id=run_id, error=error.message)
            except Exception:  # the item has ended; the keeper tries again
                logger.exception("workflow.not_advanced", run_id=run_id)

    def after_executions(self, execution_ids: Sequence[UUID]) -> None:
        """Advance the runs of executions that have just ended. Never raises."""
        if not execution_ids:
            return
        try:
            with self._database.autocommit() as connection:
                found = item_rows.runs_of(connection, execution_ids)
        except DatabaseUnavailableError as error:
            logger.warning("workflow.not_advanced", error=error.message)
            return
        self.after(found)

    def due(self, limit: int) -> int:
        """Advance runs whose steps have been due for a while; return how many.

        The process that made them due has died, or still works on it.
        """
        with self._database.autocommit() as connection:
            found = rows.due_runs(connection, older_than=_REPAIRED_AFTER_SECONDS, limit=limit)
        self._each(found)
        return len(found)

    def waiting(self, limit: int) -> int:
        """Continue runs that wait for slots which are free, of some keys; return how many."""
        found = self._admit(self._limits.some(limit))
        self._each(found)
        return len(found)

    def let_begin(self, workspace_id: UUID, keys: Sequence[str], *, seconds: float) -> None:
        """Continue runs that wait for slots of some keys, as far as there are any. Never raises.

        Stops after `seconds`; the keeper continues.
        """
        until = time.monotonic() + seconds
        try:
            found = self._admit(self._limits.of_keys(workspace_id, keys, until))
            for run_id in found:
                left = until - time.monotonic()
                if left > 0:  # what has begun is due: the keeper continues it
                    self(run_id, seconds=left)
        except DatabaseUnavailableError as error:
            logger.warning("workflow.not_advanced", error=error.message)
        except Exception:  # the limit is changed
            logger.exception("workflow.not_advanced")

    def deadlocked(self, limit: int) -> int:
        """End a run that waits for others which wait for it, looking at some keys; 1 if it did."""
        found = self._admit(self._deadlocks.end_one(limit))
        self._each(found)
        return len(found)

    def overdue(self, limit: int) -> int:
        """Fail runs whose deadline has passed; return how many."""
        with self._database.autocommit() as connection:
            found = runs.overdue(connection, limit=limit)
        for run_id in found:
            self._meet_deadline(run_id)
        self._each(found)
        return len(found)

    def _each(self, run_ids: Sequence[UUID]) -> None:
        for run_id in run_ids:
            try:
                self(run_id)
            except DatabaseUnavailableError:
                raise
            except Exception:  # the other runs must continue
                logger.exception("workflow.not_advanced", run_id=run_id)

    def _meet_deadline(self, run_id: UUID) -> None:
        message = "The run has taken longer than its deadline."
        with self._database.transaction() as connection:
            run = runs.lock(connection, run_id)
            if run is None or run.status.terminal or run.status is RunStatus.COMPENSATING:
                return
            runs.fail(connection, run_id, code=DEADLINE, message=message, step=None)
            runs.meet_deadline(connection, run_id)
            rows.wake(connection, run_id)

    def _run(self, run_id: UUID, until: float | None) -> set[UUID]:
        """Advance one run until nothing is due; return the runs above and below to advance."""
        with self._database.autocommit() as connection:
            run = runs.get(connection, run_id, workspace=None)
        if run is None:
            return set()
        plan, values = self._plans.of_version(run.workflow_version_id), RunValues(run)
        others: set[UUID] = set()
        if run.limited:
            others.update(self._admit(self._limits.of_run(run, until)))
        while True:
            others.discard(run_id)
            with self._database.transaction() as connection:
                turn = take_turn(connection, run_id, plan, values)
            self._after_turn(run_id, turn)
            others.update(self._admit(self._limits.of_keys(run.workspace_id, turn.keys, until)))
            if turn.ended is not None and turn.ended.parent_run_id is not None:
                others.add(turn.ended.parent_run_id)
            done = [self._act(action, plan, values) for action in turn.actions]
            for each in done:
                others.update(each.others)
            late = until is not None and time.monotonic() > until
            if late or (run_id not in others and all(each.whole for each in done)):
                return others

    def _admit(self, run_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Tell who follows runs that have begun or ended by a limit; return the runs."""
        if run_ids:
            self._live.changed(run_ids)
        return run_ids

    def _after_turn(self, run_id: UUID, turn: Turn) -> None:
        if turn.events:
            self._live.changed([run_id])
        if turn.released:
            self._dispatch.send_eligible()
        if turn.ended is not None:
            logger.info("workflow.run_ended", run_id=run_id, status=turn.ended.status)
            if turn.ended.trigger_type == TriggerType.CELERY:
                self._call_due()

    def _act(self, action: Action, plan: Plan, values: RunValues) -> _Done:
        match action:
            case SpawnItems(step_no):
                if plan.is_undo(step_no):
                    spawned = self._spawn_undo(values.run, plan, step_no)
                else:
                    spawned = self._spawn(values.run, plan, step_no, values)
                self._dispatch.send(spawned.messages)
                if spawned.asked:
                    self._live.changed([values.run.id])
                if spawned.pending:
                    self._dispatch.send_eligible()
                return _Done(spawned.children, whole=spawned.whole)
            case StopItems(step_no):
                self._stop(values.run.id, step_no)
            case CancelItems(step_no, everything):
                return _Done(self._cancel_items(values, step_no, everything=everything))
        return _Done()

    def _stop(self, run_id: UUID, step_no: int) -> None:
        """Let no more items of a step begin."""
        with self._database.transaction() as connection:
            if runs.lock(connection, run_id) is None:
                return
            step = rows.of_run(connection, run_id)[step_no - 1]
            if step.status is not StepStatus.RUNNING or step.stopping:
                return
            missing = dict.fromkeys(range(step.spawned, step.width), StepStatus.CANCELLED)
            item_rows.count_down(connection, run_id, step_no, missing)
            if step.kind is StepKind.APPROVE:
                questions.withdraw(connection, run_id, step_no)
            rows.stop(connection, run_id, step_no)

    def _cancel_items(self, values: RunValues, step_no: int, *, everything: bool) -> set[UUID]:
        run = values.run
        with self._database.autocommit() as connection:
            ids = item_rows.live_executions(
                connection, run.id, step_no=step_no, started=everything, limit=_CANCELLED_AT_ONCE
            )
            children = (
                runs.live_children(connection, run.id, step_no, limit=_CANCELLED_AT_ONCE)
                if everything
                else []
            )
        if ids:
            self._cancel.those(actor_of(run), ids)
        for child in children:
            self.cancel(child, by=run.cancel_requested_by or _BY_ENGINE)
        return set(children)

    def cancel_of_deleted_workspaces(self, limit: int) -> int:
        """Cancel runs that were stored while their workspace was deleted; return how many."""
        with self._database.autocommit() as connection:
            found = workspaces.left_runs(connection, seconds=DELETED_SECONDS, limit=limit)
        return sum(self.cancel(run_id, by=DELETED_WORKSPACE) for run_id in found)

    def cancel(
        self,
        run_id: UUID,
        *,
        by: str,
        why: tuple[str, str] | None = None,
        only_pending: bool = False,
    ) -> bool:
        """Store the request to cancel a run; False if it was requested before, or comes too late.

        A run that has ended, or is being compensated, can't be cancelled; with `only_pending`, nor
        one that has begun. `why` is the code and the message of its error.

        From the commit on no step of it begins. Advance it afterwards.
        """
        with self._database.transaction() as connection:
            if not runs.request_cancel(connection, run_id, by, only_pending=only_pending):
                return False
            facts: JsonObject = {"by": by}
            if why is not None:
                code, message = why
                runs.fail(connection, run_id, code=code, message=message, step=None)
                facts = {**facts, "code": code, "message": message}
            runs.log(connection, run_id, [(EventType.CANCEL_REQUESTED, facts)])
            rows.wake(connection, run_id)
        self._live.changed([run_id])
        return True
