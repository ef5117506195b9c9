"""Starts, cancels and reads runs of workflows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db import limits as workspace_limits
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import calls
from celeriac.db.executions import events as logs
from celeriac.db.hooks import deliveries
from celeriac.db.workflows import item_ends as end_rows
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows import undo as undo_rows
from celeriac.db.workflows.runs import NewRun
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import (
    CeleriacError,
    ConflictError,
)
from celeriac.domain.executions.calls import CallKind, NewCall
from celeriac.domain.executions.deliveries import NewHookDelivery
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Idempotency
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.paging import Page
from celeriac.domain.workflows.limits import RunLimit
from celeriac.domain.workflows.records import (
    EndPlace,
    ItemEnd,
    ItemsPage,
    RunFilter,
    StepRun,
    WorkflowRun,
)
from celeriac.domain.workflows.states import Compensation, ItemStatus, RunStatus
from celeriac.domain.workspace_limits import WorkspaceLimit
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.submit import claim_key
from celeriac.services.reading import present, read_page
from celeriac.services.workflows import undo
from celeriac.services.workflows.advance import Advance
from celeriac.services.workflows.again import (
    ForkRequest,
    check_fork,
    check_results,
    following,
    take_over,
)
from celeriac.services.workflows.forks import check_below
from celeriac.services.workflows.limits import limits_of, refuse
from celeriac.services.workflows.new_runs import check_input, insert_run, with_defaults
from celeriac.services.workflows.plans import Plan, Plans

logger = structlog.get_logger(__name__)

_SECONDS = 2.0
"""How long a request works on a run that it has started or cancelled; others go on."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run to start."""

    workflow_id: UUID
    input: JsonObject
    priority: int | None = None
    trigger_type: TriggerType = TriggerType.MANUAL
    idempotency: Idempotency | None = None
    call: NewCall | None = None
    """The Celery task that ends with it."""
    delivery: NewHookDelivery | None = None
    """The delivery to a hook that is stored with it."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """An accepted run.

    `created` is False if a key, the Celery task or the delivery to a hook found an earlier one.
    """

    run_id: UUID
    created: bool = True


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A checked run of a plan that is not stored yet."""

    plan: Plan
    new: NewRun
    limits: Sequence[KeyedLimit]

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        return self.new.id


_BATCH = 100
"""Runs that are read at once to be cancelled."""


class Runs:
    """Runs of workflows. Safe to share between threads."""

    def __init__(self, database: Database, plans: Plans, advance: Advance) -> None:
        self._database = database
        self._plans = plans
        self._advance = advance

    def start(self, actor: Actor, request: StartRequest) -> StartedRun:
        """Store a run of the current version of a workflow, and begin it.

        It is `pending` while there is no slot of its limits for it. Raises NotFoundError,
        InputInvalidError, LimitReachedError and IdempotencyMismatchError; nothing is stored then.
        Raises nothing once it is stored: the keeper begins it.
        """
        new = self.prepare(actor, request)
        with self._database.transaction() as connection:
            earlier = claim_key(connection, actor, request.idempotency, "workflow_run", new.run_id)
            if earlier is not None:
                return StartedRun(earlier, created=False)
            if request.call is not None:
                known = calls.add(
                    connection,
                    actor,
                    request.call,
                    kind=CallKind.WORKFLOW,
                    subject_id=new.run_id,
                    pending=1,
                )
                if known is not None:
                    return StartedRun(known.subject_id, created=False)
            if request.delivery is not None:
                found = deliveries.accept(connection, request.delivery, run_id=new.run_id)
                if found is not None:
                    return StartedRun(found, created=False)
            self.add(connection, actor, new)
        self.begin(new)
        return StartedRun(new.run_id)

    def prepare(self, actor: Actor, request: StartRequest) -> PreparedRun:
        """Return a checked run that `add` stores. Raises NotFoundError, InputInvalidError."""
        plan, of_workspace = self._current(actor, request.workflow_id)
        given = with_defaults(plan, request.input)
        check_input(plan, given)
        new = NewRun(
            id=uuid7(),
            workspace_id=actor.workspace_id,
            owner_id=actor.user_id,
            workflow_id=plan.workflow_id,
            workflow_version_id=plan.version_id,
            trigger_type=request.trigger_type,
            priority=plan.spec.priority if request.priority is None else request.priority,
            input=given,
            created_by=actor.name,
            request_id=actor.request_id,
            deadline_seconds=plan.spec.deadline,
        )
        return PreparedRun(plan, new, limits_of(plan, of_workspace, given, actor))

    def add(self, connection: Connection, actor: Actor, prepared: PreparedRun) -> None:
        """Store a run in the caller's transaction, after which `begin` begins it.

        Raises LimitReachedError; nothing is stored then.
        """
        refuse(connection, actor.workspace_id, prepared.limits)
        insert_run(connection, prepared.plan, prepared.new, prepared.limits)
        details = {"workflow_id": str(prepared.plan.workflow_id)}
        audit.record(connection, actor, "workflow_run.create", [prepared.run_id], details=details)

    def begin(self, prepared: PreparedRun) -> None:
        """Begin a run that is stored. Raises nothing: the keeper continues it."""
        logger.info(
            "workflow.run_created",
            run_id=prepared.run_id,
            workflow_id=prepared.plan.workflow_id,
        )
        self._begin(prepared.run_id)

    def _current(self, actor: Actor, workflow_id: UUID) -> tuple[Plan, Sequence[WorkspaceLimit]]:
        """Return the plan of a workflow's current version, and the workspace's limits on it."""
        with self._database.autocommit() as connection:
            found = workspace_limits.current_workflow(
                connection, workflow_id, workspace=actor.workspace_id
            )
        current = present(found, "workflow", workflow_id)
        return self._plans.of_version(current.version_id), current.limits

    def _limits_again(self, actor: Actor, plan: Plan, given: JsonObject) -> list[KeyedLimit]:
        """Return the limits of a run that repeats one, as they are now."""
        with self._database.autocommit() as connection:
            of_workspace = workspace_limits.of_runs(connection, plan.workflow_id)
        return limits_of(plan, of_workspace, given, actor)

    def _begin(self, run_id: UUID) -> None:
        try:
            self._advance(run_id, seconds=_SECONDS)
        except CeleriacError as error:
            logger.warning("workflow.not_advanced", run_id=run_id, error=error.message)
        except Exception:  # the request is stored, and the keeper continues
            logger.exception("workflow.not_advanced", run_id=run_id)

    def cancel(self, actor: Actor, run_id: UUID) -> WorkflowRun:
        """Request the cancellation of a run and of all below it; return the run.

        From then on none of its steps begins, except those with `run: always` and undo steps.
        Cancelling a run that has ended, or is being compensated, changes nothing. Raises
        NotFoundError.
        """
        self.get(actor, run_id)
        if self._advance.cancel(run_id, by=actor.name):
            with self._database.autocommit() as connection:
                audit.record(connection, actor, "workflow_run.cancel", [run_id])
            logger.info("workflow.cancel_requested", run_id=run_id, by=actor.name)
            self._begin(run_id)
        return self.get(actor, run_id)

    def cancel_all(self, actor: Actor, workspace_id: UUID) -> None:
        """Cancel all runs of a workspace. Raises ForbiddenError."""
        actor.require_administrator()
        inside = replace(actor, workspace_id=workspace_id)
        while True:
            with self._database.autocommit() as connection:
                found = runs.uncancelled_in(
                    connection, workspace_id, limit=_BATCH, compensating=False
                )
            if not found:
                return
            for run_id in found:
                self.cancel(inside, run_id)

    def retry(
        self,
        actor: Actor,
        run_id: UUID,
        idempotency: Idempotency | None = None,
        *,
        compensation: bool = False,
    ) -> StartedRun:
        """Start a run that repeats only what did not succeed in one that has ended.

        It has the same version and input, and refers to the finished steps and items, except those
        that were undone. With `compensation` it runs only the undo tasks that failed. Raises
        NotFoundError, and ConflictError for a run that has not ended, has completed, has results
        that are deleted, or of which undo tasks have failed; with `compensation`, of which none has
        failed, or which another run retries.
        """
        origin = self.get(actor, run_id)
        if compensation:
            return self._compensate_again(actor, origin, idempotency)
        if origin.status is RunStatus.COMPLETED:
            raise ConflictError(
                "The run has completed: there is nothing to retry. Fork it from a step instead.",
                status=origin.status,
            )
        if origin.compensation is Compensation.COMPENSATION_FAILED:
            by = origin.compensation_run_id
            raise ConflictError(
                "Undo tasks of the run have failed, so a retry may do twice what was not undone. "
                + ("Retry its compensation first." if by is None else f"Retry the run {by}, which "
                   "retries its compensation.")
                + " A fork runs the steps again in any case.",
                status=origin.status,
            )  # fmt: skip
        return self._again(actor, origin, ForkRequest(idempotency=idempotency))

    def _compensate_again(
        self, actor: Actor, origin: WorkflowRun, idempotency: Idempotency | None
    ) -> StartedRun:
        """Start a run with the steps of one that has ended, which runs its failed undo tasks."""
        if origin.compensation is not Compensation.COMPENSATION_FAILED:
            raise ConflictError(
                f"No undo task of the run has failed; its compensation is "
                f"{origin.compensation or 'null'}.",
                status=origin.status,
            )
        plan = self._plans.of_version(origin.workflow_version_id)
        new = following(actor, origin, origin.input, deadline_seconds=None)
        limits = self._limits_again(actor, plan, origin.input)
        with self._database.transaction() as connection:
            earlier = claim_key(connection, actor, idempotency, "workflow_run", new.id)
            if earlier is not None:
                return StartedRun(earlier, created=False)
            if not undo_rows.set_retried(connection, origin.id, by=new.id):
                now = runs.get(connection, origin.id, workspace=None)
                by = None if now is None else now.compensation_run_id
                raise ConflictError(
                    f"The compensation of this run is retried by the run {by}; if it has failed "
                    "there, too, retry it there.",
                    status=origin.status,
                )
            insert_run(connection, plan, new, limits, begun=True)
            check_results(connection, origin)
            undo.begin_again(connection, origin, new.id, plan)
            details = {"workflow_id": str(plan.workflow_id), "origin_id": str(origin.id)}
            audit.record(connection, actor, "workflow_run.create", [new.id], details=details)
        logger.info("workflow.run_created", run_id=new.id, origin_id=origin.id)
        self._begin(new.id)
        return StartedRun(new.id)

    def fork(self, actor: Actor, run_id: UUID, request: ForkRequest) -> StartedRun:
        """Start a run that begins at a step of one that has ended, with what was before it.

        The step may be one of a run below: `qualify[3]/enrich`. Then the runs on the path are
        forked, too, and items beside them are taken over; those without success go on, as in a
        retry. Raises NotFoundError, ConflictError for a run that has not ended, InvalidInputError
        for steps that the request can't name, InputInvalidError, and LimitReachedError.
        """
        origin = self.get(actor, run_id)
        return self._again(actor, origin, request)

    def _again(self, actor: Actor, origin: WorkflowRun, request: ForkRequest) -> StartedRun:
        if not origin.status.terminal:
            raise ConflictError(
                f"The run is {origin.status}; only one that has ended can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        plan = self._plans.of_version(origin.workflow_version_id)
        check_fork(plan, request)
        path = request.path
        given = origin.input
        if request.input is not None:
            given = with_defaults(plan, request.input)
            check_input(plan, given)
        new = following(actor, origin, given, deadline_seconds=plan.spec.deadline)
        limits = self._limits_again(actor, plan, given)
        with self._database.transaction() as connection:
            earlier = claim_key(connection, actor, request.idempotency, "workflow_run", new.id)
            if earlier is not None:
                return StartedRun(earlier, created=False)
            refuse(connection, origin.workspace_id, limits)
            insert_run(connection, plan, new, limits)
            take_over(connection, plan, origin, new.id, request)
            if path is not None:
                check_below(connection, plan, origin, path)
            details = {"workflow_id": str(plan.workflow_id), "origin_id": str(origin.id)}
            audit.record(connection, actor, "workflow_run.create", [new.id], details=details)
        logger.info("workflow.run_created", run_id=new.id, origin_id=origin.id)
        self._begin(new.id)
        return StartedRun(new.id)

    # reading

    def get(self, actor: Actor, run_id: UUID) -> WorkflowRun:
        """Return a run. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            found = runs.get(connection, run_id, workspace=actor.workspace_id)
        return present(found, "workflow run", run_id)

    def find(
        self, actor: Actor, wanted: RunFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[WorkflowRun]:
        """Return a page of the runs that the actor may see. Raises CursorInvalidError."""
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        find = partial(runs.find, wanted=wanted)
        return read_page(self._database, "workflow_runs", cursor, limit, find)

    def limits(self, run: WorkflowRun) -> list[RunLimit]:
        """Return the limits of a run that has not ended, and who has their slots."""
        if run.status.terminal or not run.limited:
            return []
        with self._database.autocommit() as connection:
            return limit_rows.shown(connection, run.id)

    def steps(self, run_id: UUID) -> list[StepRun]:
        """Return the steps of a run, which the caller has read, with the numbers of their items."""
        with self._database.autocommit() as connection:
            return rows.of_run(connection, run_id)

    def items(
        self,
        actor: Actor,
        run_id: UUID,
        step: str,
        *,
        after: int = -1,
        limit: int = 50,
        round_no: int | None = None,
        results: bool = False,
        status: ItemStatus | None = None,
    ) -> ItemsPage:
        """Return up to `limit` items of a step, numbered above `after`.

        Those of its last round, unless `round_no` is given. With a `status` a page may have none
        although others follow. Raises NotFoundError.
        """
        self.get(actor, run_id)
        with self._database.autocommit() as connection:
            found = next((s for s in rows.of_run(connection, run_id) if s.step == step), None)
            of_step = present(found, "step", step)
            place = (connection, run_id, of_step.step_no, round_no or of_step.round)
            if status is not None:
                return item_rows.with_status(
                    *place, status=status, after=after, limit=limit, results=results
                )
            items = item_rows.items(*place, after=after, limit=limit, results=results)
            return ItemsPage(items, items[-1].item_no if items else None)

    def events(
        self, actor: Actor, run_id: UUID, *, after: int = 0, limit: int = 500
    ) -> list[Event]:
        """Return up to `limit` events of a run numbered above `after`. Raises NotFoundError."""
        self.get(actor, run_id)
        return self.log(run_id, after=after, limit=limit)

    def ends(self, run_id: UUID, *, after: EndPlace, limit: int, whole: bool) -> list[ItemEnd]:
        """Return up to `limit` ends of items behind a place, for callers that may see the run.

        All that there are if the run has ended (`whole`), else all that nothing can precede.
        """
        with self._database.autocommit() as connection:
            return end_rows.after(connection, run_id, after, limit=limit, whole=whole)

    def log(self, run_id: UUID, *, after: int, limit: int) -> list[Event]:
        """Like `events`, without a check: for callers that have checked a moment ago."""
        with self._database.autocommit() as connection:
            return logs.after(connection, run_id, after, limit)
