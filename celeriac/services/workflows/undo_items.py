"""Makes the items of undo steps: executions of undo tasks, in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

from celeriac.db.engine import Connection, Database
from celeriac.db.executions import lifecycle
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows import undo as undo_rows
from celeriac.db.workflows.items import NewItem
from celeriac.db.workflows.undo import Undone
from celeriac.domain.errors import CeleriacError, ConflictError, UnavailableError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Held
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.prompts import WorkLimit
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.domain.workflows.undo import undo_variables
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.submit import STALE_SPEC_TRIES, check_one
from celeriac.services.workflows.chunks import CHUNK, Spawned, Target
from celeriac.services.workflows.new_runs import actor_of
from celeriac.services.workflows.plans import Plan


class FindTask(Protocol):
    """Finds a task by its name. Raises NotFoundError."""

    def __call__(self, run: WorkflowRun, name: str, *, fresh: bool) -> Target: ...  # noqa: D102


class SpawnUndo:
    """Makes items of undo steps. Safe to share between threads."""

    def __init__(self, database: Database, find_task: FindTask) -> None:
        self._database = database
        self._find_task = find_task

    def __call__(self, run: WorkflowRun, plan: Plan, step_no: int) -> Spawned:
        """Make the next chunk of an undo step's items, unless another process has done so."""
        undo = plan.undoes(step_no).undo
        assert undo is not None
        for attempt in range(STALE_SPEC_TRIES):
            target = self._target(run, undo.task, fresh=attempt > 0)
            try:
                return self._chunk(run.id, plan, step_no, target)
            except lifecycle.StaleSpecError:
                continue
        fault = ConflictError("The task is being changed.")
        return self._chunk(run.id, plan, step_no, Target(fault=fault))

    def _target(self, run: WorkflowRun, task: str, *, fresh: bool) -> Target:
        try:
            return self._find_task(run, task, fresh=fresh)
        except UnavailableError:
            raise
        except CeleriacError as error:
            return Target(fault=error)

    def _chunk(self, run_id: UUID, plan: Plan, step_no: int, target: Target) -> Spawned:
        with self._database.transaction() as connection:
            run = runs.lock(connection, run_id)
            if run is None or run.status is not RunStatus.COMPENSATING:
                return Spawned()
            states = {state.step_no: state for state in rows.of_run(connection, run_id)}
            state = states[step_no]
            if state.status is not StepStatus.RUNNING:
                return Spawned()
            return _Making(connection, run, state, target).chunk(plan)


@dataclass(slots=True)
class _Making:
    """The transaction that makes one chunk."""

    connection: Connection
    run: WorkflowRun
    state: StepRun
    target: Target
    items: list[NewItem] = field(default_factory=list)

    def chunk(self, plan: Plan) -> Spawned:
        state = self.state
        of_step = state.step_no - len(plan.names)
        live = state.spawned - state.completed - state.failed - state.cancelled
        one_by_one = plan.step(of_step).repeat is not None
        if one_by_one and live:
            return Spawned()
        wanted = undo_rows.next_items(
            self.connection, state.run_id, state.step_no, of_step, limit=1 if one_by_one else CHUNK
        )
        if not wanted:
            return Spawned()
        made = self._make(wanted)
        # those of one chunk have one round
        undo_rows.make(self.connection, state.run_id, state.step_no, wanted[0].round, self.items)
        ended = {item.item_no: item.status for item in self.items if item.status is not None}
        item_rows.count_down(self.connection, state.run_id, state.step_no, ended)
        whole = state.parallel is None and not ended and len(wanted) == state.width
        # no item existed before, so none can have made the step due
        rows.set_spawned(
            self.connection,
            state.run_id,
            state.step_no,
            state.spawned + len(wanted),
            due=not whole,
        )
        return replace(made, whole=whole)

    def _make(self, wanted: Sequence[Undone]) -> Spawned:
        numbers: list[int] = []
        variables: list[JsonObject] = []
        with WorkLimit(len(wanted)) as work:
            for each in wanted:
                try:
                    given = self._variables(each, work)
                except UnavailableError:
                    raise
                except CeleriacError as error:
                    self.items.append(
                        NewItem(
                            each.item_no,
                            status=StepStatus.FAILED,
                            code=error.code,
                            message=error.message,
                        )
                    )
                    continue
                numbers.append(each.item_no)
                variables.append(given)
        return self._executions(numbers, variables) if numbers else Spawned()

    def _variables(self, item: Undone, work: WorkLimit) -> JsonObject:
        """Return the variables of an undo task. Raises CeleriacError if it can't run with them."""
        if self.target.fault is not None:
            raise self.target.fault
        if item.status is None:
            raise ConflictError(
                "What must be undone is deleted, as all that ended long ago; undo it by hand."
            )
        error: JsonObject | None = None
        if item.status != StepStatus.COMPLETED:
            said = item.error_message or f"It is {item.status}."
            error = {"code": item.error_code or item.status, "message": said}
        given = undo_variables(item.input, item.result, error)
        assert self.target.task is not None
        check_one(self.target.task, given, work, workflow_id=self.run.workflow_id)
        return given

    def _executions(self, numbers: Sequence[int], variables: Sequence[JsonObject]) -> Spawned:
        """Insert the executions; limits, retries and queue are those of the undo task."""
        spec, state = self.target.task, self.state
        assert spec is not None
        ids = [uuid7() for _ in numbers]
        self.items += [
            NewItem(number, execution_id=id_) for number, id_ in zip(numbers, ids, strict=True)
        ]
        request = SubmitRequest(
            task_id=spec.task_id,
            priority=self.run.priority,
            trigger_type=TriggerType.WORKFLOW,
            options=RunOptions(),
        )
        held = None if state.parallel is None else Held.PARALLEL
        new = lifecycle.NewExecutions(
            spec,
            request,
            ids,
            variables,
            items=lifecycle.StepItems(state.run_id, self.run.workflow_id, state.step_no, numbers),
            held=held,
        )
        window = self.target.window if len(ids) == 1 and held is None else 0
        messages = lifecycle.create(self.connection, new, actor_of(self.run), window=window)
        return Spawned(messages=messages, pending=not messages and held is None)
