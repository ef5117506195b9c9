"""What runs take over that retry or fork another one."""

from collections.abc import Collection, Mapping, Sequence
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
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import Step, StepKind
from celeriac.domain.workflows.paths import StepPath, step_path, with_items
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.words import counted
from celeriac.services.workflows.map_items import check_items
from celeriac.services.workflows.plans import Plan


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """Where a run is forked, and what differs; without a step only what did not succeed runs."""

    step: str | None = None
    """This step and all that need it run again; a path names one of a run below."""
    items: Sequence[int] = ()
    """Of the step, a map: only these items of it run again, and those without success."""
    input: JsonObject | None = None
    """None: that of the origin."""
    results: Mapping[str, JsonValue] = field(default_factory=dict)
    """Results that steps have instead of running."""
    idempotency: Idempotency | None = None

    @property
    def path(self) -> StepPath | None:
        """The step with its items. Raises InvalidInputError for what is no path."""
        return None if self.step is None else with_items(step_path(self.step), self.items)


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
            f"The run {run.id} is retrying undo tasks; wait until it has ended.", status=run.status
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


def check_fork(plan: Plan, request: ForkRequest, *, above: str = "") -> None:
    """Raise InvalidInputError for steps and items that a fork can't name.

    Of a path only the first step is checked. `above` is what the path has before it.
    """
    path = request.path
    named = [*request.results, *([] if path is None else [path.step])]
    for name in named:
        if name not in plan.spec.steps:
            known = ", ".join(plan.names)
            workflow = f"workflow {plan.workflow!r}" if above else "workflow"
            raise InvalidInputError(
                f"The {workflow} has no step {name!r}{above and f', as in {above + name!r}'}; its "
                f"steps are {known}.",
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
    if request.items and path is None:
        raise InvalidInputError("items needs a step that is a map.", field="items")
    if path is None:
        return
    _check_part(plan.spec.steps[path.step], path, above + path.step)
    replaced = {"input": request.input is not None, "results": bool(request.results)}
    for name in [name for name, given in replaced.items() if given]:
        if path.below is not None:
            raise InvalidInputError(
                f"Runs on a path keep their input, so no path goes with other {name}; leave out "
                f"{name}, or end the path with {path.step!r}.",
                field=name,
            )


def _check_part(step: Step, path: StepPath, shown: str) -> None:
    """Raise InvalidInputError if a step of a path has no items, or no run below it."""
    if path.items and step.map is None:
        raise InvalidInputError(
            f"The step {shown!r} is no map, and has no items to name; leave them out.",
            field="items" if path.below is None else "step",
        )
    if path.below is None:
        return
    why = None
    if step.kind is not StepKind.WORKFLOW:
        why = "runs no workflow"
    elif step.is_last:
        why = "is a last step, which begins anew in each run"
    elif step.repeat is not None:
        why = "repeats its workflow, and begins with its first round"
    elif step.map is not None and not path.items:
        raise InvalidInputError(
            f"The step {shown!r} is a map; name the item, as in '{shown}[0]/{path.below}'.",
            field="step",
        )
    if why is not None:
        raise InvalidInputError(
            f"The step {shown!r} {why}, so no path leads below it; end the path with it.",
            field="step",
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """The steps that a new run takes over from its origin, and those that it runs again."""

    again: frozenset[str]
    """The forked step and all that need it."""
    undone: frozenset[str]
    kept: frozenset[str]


def taken(
    plan: Plan, of_origin: Sequence[StepRun], request: ForkRequest, *, above: str = ""
) -> Taken:
    """Return which steps a run takes over, by the steps `of_origin`.

    Raises InvalidInputError for items that there are not, or that can't be run again alone.
    """
    path, graph = request.path, plan.graph
    undone = frozenset(step.undoes for step in of_origin if step.undoes is not None)
    steps = {step.step: step for step in of_origin if step.undoes is None}
    again = frozenset() if path is None else graph.below(path.step) | {path.step}
    statuses = {name: step.status for name, step in steps.items()}
    kept = taken_over(graph, statuses, again=again | undone, given=request.results)
    if path is not None and (path.items or path.below is not None):
        shown = above + path.step
        field = "items" if path.below is None else "step"
        if path.step in undone:
            raise InvalidInputError(
                f"The step {shown!r} was undone, so all of its items run again; leave out "
                f"{'items' if path.below is None else 'what follows it in the path'}.",
                field=field,
            )
        width = steps[path.step].width
        if (last := max(path.items, default=0)) >= width:
            raise InvalidInputError(
                f"The step {shown!r} has no item {last}: it has {counted(width, 'item')}"
                f"{', and they count from 0' if width else ', as it has not begun'}.",
                field=field,
            )
        _check_needs(graph, path, kept, above)
    return Taken(again, undone, kept)


def _check_needs(graph: Graph, path: StepPath, kept: Collection[str], above: str) -> None:
    for need in graph.needs[path.step]:
        if need not in kept:
            raise InvalidInputError(
                f"The step {above + need!r} runs again, since it did not succeed or was undone, "
                f"and all of {above + path.step!r} with it; end the path with one of them, without "
                "items.",
                field="items" if path.below is None else "step",
            )


def take_over(
    connection: Connection, plan: Plan, origin: WorkflowRun, run_id: UUID, request: ForkRequest
) -> None:
    """Give a new run what it takes over from its origin.

    Raises InvalidInputError for items that there are not, and ConflictError where results are
    deleted, or undo tasks below a step that isn't forked have failed.
    """
    path, graph = request.path, plan.graph
    of_origin = rows.of_run(connection, origin.id)
    found = taken(plan, of_origin, request)
    check_beside(connection, plan, origin, path, found)
    nos = [plan.numbers[name] for name in found.kept if name not in request.results]
    rows.take_over(connection, run_id, origin.id, nos)
    check_results(connection, origin, of=run_id)
    for name, result in request.results.items():
        item_rows.give_result(connection, run_id, plan.numbers[name], result)
    if request.input is not None or request.results:
        # the lists of other maps may differ: all of their items run
        if path is not None and path.items:
            kept = item_rows.take_over_items(
                connection, run_id, origin.id, plan.numbers[path.step], again=path.items
            )
            check_items(connection, plan, origin, run_id, path, kept=kept)
        return
    for name in continued(graph, found.kept) - found.undone:
        items = path.items if path is not None and name == path.step else ()
        if name in found.again and not items:
            continue
        item_rows.take_over_items(connection, run_id, origin.id, plan.numbers[name], again=items)
    below = continued_below(graph, found.kept, found.again | found.undone)
    paths = {step.step: _not_forked(connection, step) for step in of_origin if step.step in below}
    if path is not None and path.below is not None:
        # the items beside the one on the path go on, as in a retry
        below |= {path.step}
        paths[path.step] = str(path)
    rows.set_continues(connection, run_id, {plan.numbers[name]: paths[name] for name in below})


def _not_forked(connection: Connection, step: StepRun) -> str | None:
    """Return the path of a step of a fork that has stopped before it began the item on the path."""
    if step.fork_path is None:
        return None
    item_no = step_path(step.fork_path).item
    begun = item_rows.run_of_item(connection, step.run_id, step.step_no, item_no)
    return step.fork_path if begun is None else None


def check_beside(
    connection: Connection, plan: Plan, origin: WorkflowRun, path: StepPath | None, found: Taken
) -> None:
    """Raise ConflictError if undo tasks have failed below a step that does not begin anew."""
    anew = found.again - ({path.step} if path is not None and path.below is not None else set())
    check_undone_below(connection, origin, except_nos=[plan.numbers[name] for name in anew])
