"""Compensation: the undo steps of a run, when each begins, and what became of them (pure).

An undo step undoes the items of one step, each by an execution of the undo task. Which items those
are is known when the other steps of the run have settled.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.runs import Statuses
from celeriac.domain.workflows.states import Compensation, StepStatus

SUFFIX: Final = ".undo"
"""What the id of an undo step has after that of its step; other ids have no dot."""

VARIABLES: Final = ("input", "result", "error")
"""The variables of an undo task."""


def undo_id(step: str) -> str:
    """Return the id of the undo step of a step."""
    return step + SUFFIX


def undone_by(id_: str) -> str | None:
    """Return the step that an undo step undoes; None for another step."""
    return id_.removesuffix(SUFFIX) if id_.endswith(SUFFIX) else None


def may_begin(graph: Graph, undo: Statuses) -> list[str]:
    """Return the steps whose undo steps may begin now, in the order of the document.

    `undo` has the statuses of the undo steps by the steps that they undo. A step is undone after
    all steps that need it, directly or through others, have been, with or without success; so the
    steps of a chain in the reverse order of their completion. Others are undone independently.
    """
    waiting: set[str] = set()
    stack = [id_ for id_, status in undo.items() if not status.terminal]
    while stack:
        for need in graph.needs[stack.pop()]:
            if need not in waiting:
                waiting.add(need)
                stack.append(need)
    return [
        id_ for id_ in graph.steps if undo.get(id_) is StepStatus.BLOCKED and id_ not in waiting
    ]


def compensation_of(statuses: Iterable[StepStatus]) -> Compensation:
    """Return what became of the undo steps of a run, which have all settled."""
    if all(status is StepStatus.COMPLETED for status in statuses):
        return Compensation.COMPENSATED
    return Compensation.COMPENSATION_FAILED


def undo_variables(
    given: Mapping[str, object], result: object, error: Mapping[str, object] | None
) -> dict[str, object]:
    """Return the variables of an undo task."""
    return dict(zip(VARIABLES, (dict(given), result, error), strict=True))
