"""What runs take over that retry or fork another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows import undo as undo_rows
from celeriac.db.workflows.runs import NewRun
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.executions.model import Idempotency
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.again import continued, continued_below, taken_over
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.words import counted
from celeriac.services.workflows.plans import Plan


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """Where a run is forked, and what differs; without a step only what did not succeed runs."""

    step: str | None = None
    """This step and all that need it run again."""
    items: Sequence[int] = ()
    """Of the step, a map: only these items of it run again."""
    input: JsonObject | None = None
    """None: that of the origin."""
    results: Mapping[str, JsonValue] = field(default_factory=dict)
    """Results that steps have instead of running."""
    idempotency: Idempotency | None = None


def following(
    actor: Actor, origin: WorkflowRun, given: JsonObject, *, deadline_seconds: float | None
) -> NewRun:
    """Return a run to insert that continues another one, with its version."""
    return NewRun(
        id=uuid7(),
        workspace_id=origin.workspace_id,
        owner_id=actor.user_id,
        workflow_id=origin.workflow_id,
        workflow_version_id=origin.workflow_version_id,
        trigger_type=TriggerType.MANUAL,
        priority=origin.priority,
        input=given,
        created_by=actor.name,
        request_id=actor.request_id,
        deadline_seconds=deadline_seconds,
        origin_id=origin.id,
    )


def check_results(connection: Connection, run: WorkflowRun, *, of: UUID | None = None) -> None:
    """Raise ConflictError if results to which a run, or the new one `of` it, refers are deleted."""
    if item_rows.lacks_results(connection, of or run.id):
        raise deleted(run.status)


def deleted(status: RunStatus) -> ConflictError:
    """Return the error of a run that would take over what is deleted."""
    return ConflictError(
        "Results of the run that would be taken over are deleted, as all that ended long ago; "
        "start a new run.",
        status=status,
    )


def check_undone(run: WorkflowRun) -> None:
    """Raise ConflictError if undo tasks of an ended run have failed, or are retried now.

    `run` is the last one that has retried its compensation.
    """
    if run.status is RunStatus.COMPENSATING:
        raise ConflictError(
            f"The run {run.id} retries undo tasks; wait until it has ended.", status=run.status
        )
    if run.compensation is Compensation.COMPENSATION_FAILED:
        raise ConflictError(
            f"Undo tasks of the run {run.id} have failed, so a retry may do twice what was not "
            "undone. Retry its compensation first. A fork from the step runs it in any case.",
            status=run.status,
        )


def check_undone_below(
    connection: Connection, run: WorkflowRun, *, except_nos: Sequence[int] = ()
) -> None:
    """Raise ConflictError if undo tasks of a run at any depth below have failed, or run now.

    Except below the steps `except_nos`.
    """
    found = undo_rows.not_undone_below(connection, run.id, except_nos=except_nos)
    below = None if found is None else runs.get(connection, found, workspace=None)
    if below is not None:
        check_undone(below)


def check_fork(plan: Plan, request: ForkRequest) -> None:
    """Raise InvalidInputError for steps and items that a fork can't name."""
    named = [*request.results, *([] if request.step is None else [request.step])]
    for name in named:
        if name not in plan.spec.steps:
            known = ", ".join(plan.names)
            raise InvalidInputError(
                f"The workflow has no step {name!r}; its steps are {known}.",
                field="results" if name in request.results else "step",
            )
    for name in request.results:
        if plan.spec.steps[name].kind is StepKind.APPROVE:
            raise InvalidInputError(
                f"The step {name!r} is an approval: a person answers it in the new run.",
                field="results",
            )
        if plan.spec.steps[name].map is not None or plan.spec.steps[name].is_last:
            raise InvalidInputError(
                f"The step {name!r} is a map or a last step; only an ordinary step can be given a "
                "result.",
                field="results",
            )
    if request.items and (request.step is None or plan.spec.steps[request.step].map is None):
        raise InvalidInputError("items needs a step that is a map.", field="items")


def take_over(
    connection: Connection, plan: Plan, origin: WorkflowRun, run_id: UUID, request: ForkRequest
) -> None:
    """Give a new run what it takes over from its origin.

    Raises InvalidInputError for items that there are not, and ConflictError where results are
    deleted, or undo tasks below a step that isn't forked have failed.
    """
    graph = plan.graph
    of_origin = rows.of_run(connection, origin.id)
    undone = {step.undoes for step in of_origin if step.undoes is not None}
    steps = {step.step: step for step in of_origin if step.undoes is None}
    if request.items and request.step in undone:
        raise InvalidInputError(
            f"The step {request.step!r} was undone, so all of its items run again; leave out "
            "items.",
            field="items",
        )
    if request.step is not None and request.items:
        width = steps[request.step].width
        if max(request.items) >= width:
            raise InvalidInputError(
                f"The step {request.step!r} has no item {max(request.items)}: it has "
                f"{counted(width, 'item')}, and they count from 0.",
                field="items",
            )
    statuses = {name: step.status for name, step in steps.items()}
    again = frozenset() if request.step is None else graph.below(request.step) | {request.step}
    check_undone_below(connection, origin, except_nos=[plan.numbers[name] for name in again])
    kept = taken_over(graph, statuses, again=again | undone, given=request.results)
    nos = [plan.numbers[name] for name in kept if name not in request.results]
    rows.take_over(connection, run_id, origin.id, nos)
    check_results(connection, origin, of=run_id)
    for name, result in request.results.items():
        item_rows.give_result(connection, run_id, plan.numbers[name], result)
    if request.input is not None or request.results:
        return  # the lists of maps may differ
    for name in continued(graph, kept) - undone:
        if name in again and (name != request.step or not request.items):
            continue
        items = request.items if name == request.step else ()
        item_rows.take_over_items(connection, run_id, origin.id, plan.numbers[name], again=items)
    below = continued_below(graph, kept, again | undone)
    rows.set_continues(connection, run_id, [plan.numbers[name] for name in below])
