"""Finds what a step runs at present, and makes the next chunk of its items."""

from celeriac.db.catalog import TASKS, WORKFLOWS
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.db.limits import current_workflow
from celeriac.domain.errors import (
    CeleriacError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from celeriac.domain.workflows.model import MAX_DEPTH, Step, StepKind
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.submit import STALE_SPEC_TRIES
from celeriac.services.workflows.chunks import Making, Spawned, Target
from celeriac.services.workflows.plans import Plan, Plans
from celeriac.services.workflows.values import RunValues


class Spawn:
    """Makes items. Safe to share between threads."""

    def __init__(
        self, database: Database, plans: Plans, specs: SpecCache, dispatch: Dispatch
    ) -> None:
        self._database = database
        self._plans = plans
        self._specs = specs
        self._dispatch = dispatch

    def __call__(self, run: WorkflowRun, plan: Plan, step_no: int, values: RunValues) -> Spawned:
        """Make the next chunk of a step's items; nothing if the run or the step has stopped."""
        step = plan.step(step_no)
        for attempt in range(STALE_SPEC_TRIES):
            target = self._target(run, step, fresh=attempt > 0)
            try:
                with self._database.transaction() as connection:
                    return Making(connection, plan, values, target).chunk(run.id, step_no)
            except lifecycle.StaleSpecError:
                continue
        target = Target(fault=ConflictError("The task is being changed."))
        with self._database.transaction() as connection:
            return Making(connection, plan, values, target).chunk(run.id, step_no)

    def _target(self, run: WorkflowRun, step: Step, *, fresh: bool) -> Target:
        try:
            if step.kind is StepKind.TASK:
                return self.of_task(run, step.target, step.queue, fresh=fresh)
            if step.kind is StepKind.WORKFLOW:
                return self._workflow(run, step.target)
        except UnavailableError:
            raise
        except CeleriacError as error:
            return Target(fault=error)
        return Target()

    def of_task(
        self, run: WorkflowRun, name: str, queue: str | None = None, *, fresh: bool
    ) -> Target:
        """Return a task by its name. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            key = TASKS.id_of_name(connection, name, workspace=run.workspace_id)
        if key is None:
            raise NotFoundError("task", name)
        spec = self._specs.current(key, workspace=run.workspace_id, fresh=fresh)
        return Target(task=spec, window=self._dispatch.capacity(queue or spec.task.queue))

    def _workflow(self, run: WorkflowRun, name: str) -> Target:
        if run.depth >= MAX_DEPTH:
            raise InvalidInputError(
                f"A workflow may run others in at most {MAX_DEPTH} levels; this is one too deep."
            )
        with self._database.autocommit() as connection:
            key = WORKFLOWS.id_of_name(connection, name, workspace=run.workspace_id)
            current = (
                None
                if key is None
                else current_workflow(connection, key, workspace=run.workspace_id)
            )
        if current is None:
            raise NotFoundError("workflow", name)
        plan = self._plans.of_version(current.version_id)
        return Target(workflow=plan, limits=current.limits)
