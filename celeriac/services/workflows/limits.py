"""Limits of runs: their keys at submission, and who gets the slots.

A run with limits is stored `pending`. It begins when it has a slot of each key, which `RunLimits`
gives out in turn: after a submission, after the end of a run, and when one only waits. A process
that dies before it has done so loses nothing: the keeper does the same for all keys for which runs
wait.
"""

import time
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import structlog

from celeriac.db.engine import Connection, Database
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows.limits import Line, Slot
from celeriac.db.workflows.steps import Move
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import LimitReachedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.limits import Ending, KeyedLimit, LimitEnd, endings, said
from celeriac.domain.workflows.limits import SlotState, keys_of
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.domain.workflows.states import RunStatus, RunTransition, StepStatus, StepTransition
from celeriac.domain.workspace_limits import WorkspaceLimit
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.outcomes import SpawnItems, Turn, end_run
from celeriac.services.workflows.plans import Plan

logger = structlog.get_logger(__name__)

BY_LIMIT = "limit"
"""Who cancels runs by a policy."""


def limits_of(
    plan: Plan, of_workspace: Sequence[WorkspaceLimit], given: JsonObject, actor: Actor
) -> list[KeyedLimit]:
    """Return the limits of a new run with their keys. Raises InputInvalidError.

    `of_workspace` are those of the workspace that are about runs of the workflow.
    """
    run: JsonObject = {
        "workflow": plan.workflow,
        "version": plan.version,
        "owner": str(actor.user_id),
        "workspace": str(actor.workspace_id),
    }
    return keys_of(plan.spec.limits, of_workspace, given, run, workflow_id=plan.workflow_id)


def refuse(connection: Connection, workspace_id: UUID, limits: Sequence[KeyedLimit]) -> None:
    """Raise LimitReachedError for a new run that may not wait for a slot. Needs a transaction.

    No other run gets the slot that is free then until the transaction ends.
    """
    strict = [each for each in limits if each.policy is LimitPolicy.CANCEL_NEW]
    if not strict:
        return
    limit_rows.lock(connection, workspace_id, [each.key for each in strict])
    taken = limit_rows.first_taken(connection, workspace_id, strict)
    if taken is not None:
        raise LimitReachedError(
            f"The limit {taken.key!r} is reached: the run {taken.run_id} has the slot. "
            "Wait for its end, or cancel it.",
            key=taken.key,
            max=taken.max,
            run_id=str(taken.run_id),
        )


# In a turn of a run


def end_unbegun(connection: Connection, run: WorkflowRun, turn: Turn) -> None:
    """End a locked run that has not begun, if it is cancelled or has met its deadline.

    None of its steps runs, not even the last ones.
    """
    if run.cancel_requested_at is None and not run.overdue:
        return
    live = [step for step in rows.of_run(connection, run.id) if not step.status.terminal]
    rows.move(connection, run.id, [Move(step.step_no, StepTransition.CANCEL) for step in live])
    cancelled = run.cancel_requested_at is not None
    end_run(connection, run, RunStatus.CANCELLED if cancelled else RunStatus.FAILED, turn)


def use_slots(
    connection: Connection, run: WorkflowRun, plan: Plan, slots: Sequence[Slot], turn: Turn
) -> None:
    """Give back the slots of a locked run that only waits or has ended, or wait for them again.

    What needs a slot is taken out of the turn until the run has one.
    """
    if turn.ended is not None:
        turn.keys = [slot.key for slot in slots]
        return
    states = {slot.state for slot in slots}
    needs = [each for each in turn.actions if _needs_slot(plan, each)]
    if needs and SlotState.GIVEN_BACK in states:
        turn.keys = limit_rows.want_back(connection, run.id)
        turn.events.append((EventType.WAITING, {"reason": "limit", "keys": [*turn.keys]}))
        states.add(SlotState.WAITING)
    if SlotState.WAITING in states:
        turn.actions = [each for each in turn.actions if each not in needs]
    elif not needs and _may_give_back(slots) and _only_waits(connection, run):
        turn.keys = limit_rows.give_back(connection, run.id)


def _needs_slot(plan: Plan, action: object) -> bool:
    """Whether an action makes executions."""
    if not isinstance(action, SpawnItems):
        return False
    return plan.is_undo(action.step_no) or plan.step(action.step_no).kind is StepKind.TASK


def _may_give_back(slots: Sequence[Slot]) -> bool:
    return any(slot.state is SlotState.HELD and slot.count is LimitCount.RUNNING for slot in slots)


def _only_waits(connection: Connection, run: WorkflowRun) -> bool:
    """Whether all running steps of a run wait for approvals or for other runs."""
    steps = rows.of_run(connection, run.id)
    running = [step for step in steps if step.status is StepStatus.RUNNING]
    return bool(running) and all(
        step.undoes is None and step.kind is not StepKind.TASK for step in running
    )


# Between turns


class CancelRun(Protocol):
    """Requests the cancellation of a run, as `Advance.cancel` does."""

    def __call__(
        self, run_id: UUID, *, by: str, why: tuple[str, str] | None, only_pending: bool
    ) -> bool:
        """Return False if it comes too late."""


class RunLimits:
    """Gives out slots, and applies the policies of limits. Safe to share between threads.

    All methods return runs to advance: those that have got their slots, and those that were
    cancelled. With `until`, a monotonic time, they stop then; the keeper continues.
    """

    def __init__(self, database: Database, cancel: CancelRun) -> None:
        self._database = database
        self._cancel = cancel
        self._after: Line | None = None

    def of_run(self, run: WorkflowRun, until: float | None = None) -> list[UUID]:
        """Give out slots of the keys for which a run waits."""
        with self._database.autocommit() as connection:
            slots = limit_rows.of_run(connection, run.id)
        keys = [slot.key for slot in slots if slot.state is SlotState.WAITING]
        return self.of_keys(run.workspace_id, keys, until)

    def of_keys(
        self, workspace_id: UUID, keys: Sequence[str], until: float | None = None
    ) -> list[UUID]:
        """Give out slots of these keys."""
        found: list[UUID] = []
        for key in keys:
            found += self._apply(workspace_id, key)
            found += self._give(workspace_id, key, until)
        return list(dict.fromkeys(found))

    def some(self, limit: int) -> list[UUID]:
        """Give out slots of up to `limit` keys, those behind the keys of the last call.

        Only the keeper calls it.
        """
        with self._database.autocommit() as connection:
            lines = limit_rows.lines(connection, after=self._after, limit=limit)
        self._after = lines[-1] if len(lines) == limit else None
        found: list[UUID] = []
        for line in lines:
            if line.policies:
                found += self._apply(line.workspace_id, line.key)
            found += self._give(line.workspace_id, line.key, None)
        return list(dict.fromkeys(found))

    def _apply(self, workspace_id: UUID, key: str) -> list[UUID]:
        """Cancel the runs that the policies of a key end; return them."""
        with self._database.autocommit() as connection:
            if not limit_rows.has_policies(connection, workspace_id, key):
                return []
            held, waiting = limit_rows.users(connection, workspace_id, key)
        return [each.id for each in endings(held, waiting) if self._end(each, key)]

    def _end(self, ending: Ending, key: str) -> bool:
        why = (ending.why.value, said(ending, key, "run"))
        only_pending = ending.why is not LimitEnd.REPLACED
        if not self._cancel(ending.id, by=BY_LIMIT, why=why, only_pending=only_pending):
            return False
        logger.info("workflow.ended_by_limit", run_id=ending.id, code=why[0])
        return True

    def _give(self, workspace_id: UUID, key: str, until: float | None) -> list[UUID]:
        """Give out the free slots of a key in turn; return the runs that have got theirs.

        A run that also waits for another key, of which no slot is free, is passed over.
        """
        found: list[UUID] = []
        passed: list[str] = []
        while until is None or time.monotonic() < until:
            with self._database.autocommit() as connection:
                first = limit_rows.first_waiting(connection, workspace_id, key, without=passed)
            if first is None or first[1]:
                break
            with self._database.transaction() as connection:
                full = admit(connection, first[0])
            if full is None:
                continue
            if not full:
                found.append(first[0])
                logger.info("workflow.admitted", run_id=first[0])
            elif key in full:
                break
            passed += full
        return found


def admit(connection: Connection, run_id: UUID) -> list[str] | None:
    """Give a run all slots for which it waits; return the keys of which none is free.

    Then it has got none. None if it waits for nothing any more. Needs a transaction.
    """
    run = runs.lock(connection, run_id)
    if run is None or run.status.terminal:
        return None
    if run.status is RunStatus.PENDING and (run.cancel_requested_at is not None or run.overdue):
        return None
    slots = limit_rows.of_run(connection, run_id)
    keys = [slot.key for slot in slots if slot.state is SlotState.WAITING]
    if not keys:
        return None
    limit_rows.lock(connection, run.workspace_id, keys)
    if full := limit_rows.full(connection, run_id):
        return full
    limit_rows.hold(connection, run_id)
    event = EventType.RESUMED
    if run.status is RunStatus.PENDING:
        runs.move(connection, run_id, RunTransition.BEGIN)
        event = EventType.STARTED
    runs.log(connection, run_id, [(event, {})])
    rows.wake(connection, run_id)
    return []
