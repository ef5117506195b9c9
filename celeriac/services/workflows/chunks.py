"""Makes a chunk of the items of a running step: executions, runs of workflows, or a question.

A chunk is one transaction that locks the run first: nothing begins once a cancellation is
committed. The counters hold the full width before the first chunk, so no order of ends can make the
step complete early. A process that dies leaves the cursor at the last chunk, and the keeper goes
on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from celeriac import traces
from celeriac.db.engine import Connection
from celeriac.db.executions import lifecycle
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows.items import NewItem
from celeriac.db.workflows.runs import NewRun
from celeriac.domain.errors import (
    CeleriacError,
    UnavailableError,
)
from celeriac.domain.executions.model import ExecutionSpec, QueuedMessage, SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Held
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.expressions.templates import render
from celeriac.domain.prompts import WorkLimit
from celeriac.domain.tasks import Limits
from celeriac.domain.workflows.model import Step, StepKind, Timeout
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.domain.workspace_limits import WorkspaceLimit
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.executions.submit import check_one
from celeriac.services.workflows import forks, questions
from celeriac.services.workflows.again import (
    check_results,
    check_undone,
    check_undone_below,
    deleted,
    take_over,
)
from celeriac.services.workflows.limits import limits_of
from celeriac.services.workflows.map_items import key_of, keys_of, scopes
from celeriac.services.workflows.new_runs import actor_of, check_input, insert_run, with_defaults
from celeriac.services.workflows.plans import Plan
from celeriac.services.workflows.values import RunValues, result_of

CHUNK = 1_000
"""Items that one transaction makes."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """What a chunk has made: messages to send, whether more is to be dispatched, runs to begin.

    `asked` says whether a person is asked: the log has a new event.
    """

    messages: Sequence[QueuedMessage] = ()
    pending: bool = False
    children: Sequence[UUID] = ()
    whole: bool = False
    """Nothing is left to do for the step until one of its items has ended."""
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a step runs at present, or why it can't."""

    task: ExecutionSpec | None = None
    workflow: Plan | None = None
    limits: Sequence[WorkspaceLimit] = ()
    """Those of the workspace on the runs of the workflow."""
    window: int = 0
    fault: CeleriacError | None = None


def options_of(step: Step, task: ExecutionSpec) -> RunOptions:
    """Return the options of a step's executions: its time limits and its retry policy.

    REQUIREMENTS E7: 240 and 300 s, unless the step or the task says otherwise.
    """
    of_task, usual = task.task.limits, Limits()
    own_limits = (of_task.soft_seconds, of_task.hard_seconds) != (
        usual.soft_seconds,
        usual.hard_seconds,
    )
    if step.timeout == Timeout() and own_limits:
        return RunOptions(retry=step.retry)
    return RunOptions(
        soft_seconds=step.timeout.soft, hard_seconds=step.timeout.hard, retry=step.retry
    )


@dataclass(slots=True)
class Making:
    """The transaction that makes one chunk."""

    connection: Connection
    plan: Plan
    values: RunValues
    target: Target
    items: list[NewItem] = field(default_factory=list)
    ended: dict[int, StepStatus] = field(default_factory=dict)
    """Items that end at once, to be counted down."""
    shared: set[int] = field(default_factory=set)
    """Those of them that have the execution of another item, because they have its key."""

    def chunk(self, run_id: UUID, step_no: int) -> Spawned:
        """Make the next chunk, unless the run or the step has stopped."""
        connection, step = self.connection, self.plan.step(step_no)
        run = runs.lock(connection, run_id)
        if run is None or run.status.terminal:
            return Spawned()
        if not step.is_last and (run.cancel_requested_at or run.error_code):
            return Spawned()
        states = rows.of_run(connection, run_id)
        state = states[step_no - 1]
        if state.status is not StepStatus.RUNNING or state.stopping:
            return Spawned()
        numbers = range(state.spawned, min(state.width, state.spawned + CHUNK))
        scope = self.values.scope(
            connection, self.plan.spec.steps, states, self.plan.needs(step_no), last=step.is_last
        )
        if step.repeat is not None:
            scope["index"] = state.round - 1
            scope["result"] = result_of(connection, state, before=1) if state.round > 1 else None
        left = self._not_taken_over(run, state, numbers)
        made = self._make(run, state, step, scope, left) if left else Spawned()
        item_rows.add_items(connection, run_id, step_no, state.round, self.items)
        item_rows.count_down(connection, run_id, step_no, self.ended, shared=self.shared)
        whole = state.parallel is None and not self.ended and len(numbers) == state.width
        # no item existed before, so none can have made the step due
        rows.set_spawned(connection, run_id, step_no, numbers.stop, due=not whole)
        return replace(made, whole=whole)

    def _not_taken_over(self, run: WorkflowRun, state: StepRun, numbers: range) -> Sequence[int]:
        """Return the items that an earlier run has not completed; those are counted down."""
        if run.origin_id is None or not numbers:
            return numbers
        found = item_rows.items(
            self.connection, run.id, state.step_no, state.round,
            after=numbers.start - 1, limit=len(numbers), results=False,
        )  # fmt: skip
        known = {item.item_no for item in found if item.item_no in numbers}
        self.ended.update(dict.fromkeys(known, StepStatus.COMPLETED))
        return [number for number in numbers if number not in known]

    def _make(
        self,
        run: WorkflowRun,
        state: StepRun,
        step: Step,
        scope: Mapping[str, Any],
        numbers: Sequence[int],
    ) -> Spawned:
        if self.target.fault is not None:
            for number in numbers:
                self._fails(number, self.target.fault)
            return Spawned()
        if step.kind is StepKind.APPROVE:
            return self._question(run, state, step, scope)
        each = list(scopes(step, scope, numbers))
        if self.target.task is not None:
            known = self._known_keys(run, state, step, scope, each)
            return self._executions(run, state, step, each, known)
        assert self.target.workflow is not None
        return self._children(run, state, step, self.target.workflow, each)

    def _question(
        self, run: WorkflowRun, state: StepRun, step: Step, scope: Mapping[str, Any]
    ) -> Spawned:
        try:
            self.items.append(questions.ask(self.connection, run, state, step, scope))
        except UnavailableError:
            raise
        except CeleriacError as error:
            self._fails(0, error)
            return Spawned()
        return Spawned(asked=True)

    def _fails(self, number: int, error: CeleriacError) -> None:
        """Note that an item can't begin."""
        self.items.append(
            NewItem(number, status=StepStatus.FAILED, code=error.code, message=error.message)
        )
        self.ended[number] = StepStatus.FAILED

    def _known_keys(
        self,
        run: WorkflowRun,
        state: StepRun,
        step: Step,
        scope: Mapping[str, Any],
        each: Sequence[tuple[int, Mapping[str, Any]]],
    ) -> dict[str, UUID]:
        """Return the executions by their keys that other items have: earlier ones, or taken over.

        Those that were taken over may have any numbers.
        """
        others = range(state.spawned if run.origin_id is None else state.width)
        if step.key is None or not others:
            return {}
        wanted = set(keys_of(step, each).values())
        keys = keys_of(step, scopes(step, scope, others))
        keys = {number: key for number, key in keys.items() if key in wanted}
        found = item_rows.executions_of_items(
            self.connection, run.id, state.step_no, state.round, list(keys)
        )
        known: dict[str, UUID] = {}
        for number in sorted(found):
            known.setdefault(keys[number], found[number])
        return known

    def _executions(
        self,
        run: WorkflowRun,
        state: StepRun,
        step: Step,
        each: Sequence[tuple[int, Mapping[str, Any]]],
        known: dict[str, UUID],
    ) -> Spawned:
        """Insert an execution for each item; items with the same key share one."""
        assert self.target.task is not None
        spec = self.target.task
        numbers: list[int] = []
        variables: list[JsonObject] = []
        ids: list[UUID] = []
        with WorkLimit(max(len(each), 1)) as work:
            for number, scope in each:
                try:
                    key = key_of(step, scope)
                    if key is not None and key in known:
                        self.items.append(NewItem(number, execution_id=known[key]))
                        self.ended[number] = StepStatus.COMPLETED
                        self.shared.add(number)
                        continue
                    given = _object(render(step.with_, scope))
                    check_one(spec, given, work, workflow_id=run.workflow_id)
                except UnavailableError:
                    raise
                except CeleriacError as error:
                    self._fails(number, error)
                    continue
                execution_id = uuid7()
                if key is not None:
                    known[key] = execution_id
                numbers.append(number)
                variables.append(given)
                ids.append(execution_id)
                self.items.append(NewItem(number, execution_id=execution_id))
        if not ids:
            return Spawned()
        request = SubmitRequest(
            task_id=spec.task_id,
            priority=step.priority if step.priority is not None else run.priority,
            queue=step.queue,
            trigger_type=TriggerType.WORKFLOW,
            options=options_of(step, spec),
        )
        # all steps of a run are in one trace, whichever processes start them
        with traces.span(
            f"start step {state.step}",
            "producer",
            trace_id=traces.trace_of(run.id),
            run_id=run.id,
            count=len(ids),
        ):
            new = lifecycle.NewExecutions(
                spec,
                request,
                ids,
                variables,
                items=lifecycle.StepItems(run.id, run.workflow_id, state.step_no, numbers),
                held=None if state.parallel is None else Held.PARALLEL,
            )
            window = self.target.window if len(ids) == 1 and state.parallel is None else 0
            messages = lifecycle.create(self.connection, new, actor_of(run), window=window)
        return Spawned(messages=messages, pending=not messages and state.parallel is None)

    def _children(
        self,
        run: WorkflowRun,
        state: StepRun,
        step: Step,
        plan: Plan,
        each: Sequence[tuple[int, Mapping[str, Any]]],
    ) -> Spawned:
        """Insert a run of a workflow for each item; it may continue one of an earlier run."""
        children = []
        actor = actor_of(run)
        earlier = self._earlier(run, state, [number for number, _ in each])
        forked = forks.of_step(self.connection, run, state)
        kept: Collection[str] = ()
        if plan.spec.limits or self.target.limits or forked is not None:
            kept = limit_rows.kept_above(self.connection, run.id)
        for number, scope in each:
            try:
                if forked is not None and number == forked.item_no:
                    begun = forks.begun(self.connection, forked)
                else:
                    begun = self._begun(plan, render(step.with_, scope), earlier, number)
                wanted = limits_of(begun.plan, self.target.limits, begun.input, actor)
            except UnavailableError:
                raise
            except CeleriacError as error:
                self._fails(number, error)
                continue
            child = NewRun(
                id=uuid7(),
                workspace_id=run.workspace_id,
                owner_id=run.owner_id,
                workflow_id=begun.plan.workflow_id,
                workflow_version_id=begun.plan.version_id,
                trigger_type=TriggerType.WORKFLOW,
                priority=_first(step.priority, run.priority, begun.plan.spec.priority),
                input=begun.input,
                created_by=run.created_by,
                request_id=run.request_id,
                deadline_seconds=begun.plan.spec.deadline,
                deadline_at=run.deadline_at,
                parent_run_id=run.id,
                parent_step_no=state.step_no,
                parent_item_no=number,
                depth=run.depth + 1,
                origin_id=None if begun.origin is None else begun.origin.id,
            )
            # a run of which a slot is kept while it waits for this one shares it
            limits = [each for each in wanted if each.key not in kept]
            insert_run(self.connection, begun.plan, child, limits)
            if begun.origin is not None:
                take_over(self.connection, begun.plan, begun.origin, child.id, begun.request)
            children.append(child.id)
            self.items.append(NewItem(number, child_run_id=child.id))
        return Spawned(children=children)

    def _begun(
        self,
        plan: Plan,
        rendered: JsonValue,
        earlier: Mapping[int, WorkflowRun | None],
        number: int,
    ) -> forks.Begun:
        """Return what the run of an item begins with, which may go on where an earlier one ended.

        Raises InputInvalidError and ConflictError.
        """
        given = with_defaults(plan, _object(rendered))
        check_input(plan, given)
        old = self._goes_on(earlier[number], plan, given) if number in earlier else None
        return forks.Begun(plan, given, old)

    def _earlier(
        self, run: WorkflowRun, state: StepRun, numbers: Sequence[int]
    ) -> Mapping[int, WorkflowRun | None]:
        """Return the runs without success that a retry repeats, by the numbers of their items.

        None for one that is deleted. An earlier retry may have stopped before it began an item: the
        run before it has it.
        """
        found: dict[int, WorkflowRun | None] = {}
        left, origin_id, continues = list(numbers), run.origin_id, state.continues
        while left and continues and origin_id is not None:
            found |= runs.unsuccessful(self.connection, origin_id, state.step_no, left)
            left = [number for number in left if number not in found]
            origin = runs.get(self.connection, origin_id, workspace=None)
            continues = rows.of_run(self.connection, origin_id)[state.step_no - 1].continues
            origin_id = None if origin is None else origin.origin_id
        return found

    def _goes_on(
        self, old: WorkflowRun | None, plan: Plan, given: JsonObject
    ) -> WorkflowRun | None:
        """Return the run with which an item goes on, or None if it begins anew.

        Raises ConflictError if nobody knows what it has done, or it was not undone.
        """
        if old is None:
            raise deleted(RunStatus.FAILED)
        check_undone(old)
        check_undone_below(self.connection, old)
        if old.workflow_version_id != plan.version_id or old.input != given:
            return None
        check_results(self.connection, old)
        return old


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _object(value: JsonValue) -> JsonObject:
    assert isinstance(value, dict), "an object is rendered to an object"
    return value
