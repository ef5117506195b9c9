"""Forks along a path: which runs below a run are on it, and what the new ones begin with.

A run on the path is forked by the run of the same item of the new run: with its version and its
input, from the step that the path names in it. The rows of steps and items lead from one to the
next. A new run is made when its step begins, so the rest of the path is kept in the step's row
(`StepRun.fork_path`).
"""

from dataclasses import dataclass, field
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.workflows.paths import StepPath, step_path
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.again import (
    ForkRequest,
    check_beside,
    check_fork,
    check_results,
    check_undone,
    taken,
)
from celeriac.services.workflows.plans import Plan, read_plan


@dataclass(frozen=True, slots=True)
class Begun:
    """What the run of an item begins with, and the run that it continues, if it does."""

    plan: Plan
    input: JsonObject
    origin: WorkflowRun | None
    request: ForkRequest = field(default_factory=ForkRequest)


@dataclass(frozen=True, slots=True)
class Forked:
    """The item of a step that is on the path of a fork, and the run that its run forks."""

    item_no: int
    run_id: UUID | None
    """None if the run is deleted."""
    below: StepPath
    shown: str
    """The path so far."""


def check_below(connection: Connection, plan: Plan, origin: WorkflowRun, path: StepPath) -> None:
    """Check a path from the run `origin`, of which the first step is checked, to its end.

    Raises InvalidInputError naming the part at fault, and ConflictError where a run on the path, or
    a result that its fork would take over, is deleted, or undo tasks have failed.
    """
    above = ""
    while path.below is not None:
        step_no = plan.numbers[path.step]
        run_id = item_rows.run_of_item(connection, origin.id, step_no, path.item)
        if run_id is None:
            raise InvalidInputError(
                f"{above + path.part!r} has not begun a run in the run {origin.id}, so no path "
                "leads below it; end the path with it.",
                field="step",
            )
        above += f"{path.part}/"
        begun = _checked(connection, run_id, path.below, above)
        assert begun.origin is not None
        plan, origin, path = begun.plan, begun.origin, path.below


def of_step(connection: Connection, run: WorkflowRun, state: StepRun) -> Forked | None:
    """Return the item of a step that is on the path of a fork, or None.

    A fork may have stopped before it began the item: then the run before it has the item.
    """
    if state.fork_path is None:
        return None
    path = step_path(state.fork_path)
    assert path.below is not None, "only such a path is stored"
    found: UUID | None = None
    origin_id = run.origin_id
    while found is None and origin_id is not None:
        found = item_rows.run_of_item(connection, origin_id, state.step_no, path.item)
        origin = runs.get(connection, origin_id, workspace=None)
        origin_id = None if origin is None else origin.origin_id
    return Forked(path.item, found, path.below, f"{path.part}/")


def begun(connection: Connection, forked: Forked) -> Begun:
    """Return what the run of the item on a path begins with.

    Raises what `check_below` does: things may have changed since the fork was accepted.
    """
    return _checked(connection, forked.run_id, forked.below, forked.shown)


def _checked(connection: Connection, run_id: UUID | None, path: StepPath, above: str) -> Begun:
    """Return the fork of a run at the first step of a path. `above` is the path before it."""
    old = None if run_id is None else runs.get(connection, run_id, workspace=None)
    while old is not None and old.compensation_run_id is not None:
        old = runs.get(connection, old.compensation_run_id, workspace=None)
    if old is None:
        raise ConflictError(
            f"The run that {above.removesuffix('/')!r} was is deleted, as all that ended long ago; "
            "end the path with that step.",
        )
    check_undone(old)
    if not old.status.terminal:
        raise ConflictError(
            f"The run {old.id}, which {above.removesuffix('/')!r} is, is {old.status}; wait until "
            "it has ended.",
            status=old.status,
        )
    plan = read_plan(connection, old.workflow_version_id)
    request = ForkRequest(step=str(path))
    check_fork(plan, request, above=above)
    found = taken(plan, rows.of_run(connection, old.id), request, above=above)
    check_beside(connection, plan, old, path, found)
    check_results(connection, old)
    return Begun(plan, old.input, old, request)
