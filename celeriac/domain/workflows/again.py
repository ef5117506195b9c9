"""What a new run takes over from an earlier one of the same version (pure)."""

from collections.abc import Collection

from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.runs import Statuses
from celeriac.domain.workflows.states import StepStatus

_KEPT = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED})


def taken_over(
    graph: Graph, statuses: Statuses, *, again: Collection[str] = (), given: Collection[str] = ()
) -> frozenset[str]:
    """Return the ordinary steps whose outcome the new run takes over.

    A step is taken over if it has completed or was skipped, and so are all that it needs: otherwise
    its input may differ. An approval that was denied is asked again. `again` are steps that run
    again although they have completed; the outcomes of those in `given` are replaced, so they are
    taken over in any case.
    """
    kept: set[str] = set(given)
    for id_ in graph.order:
        if id_ in again or id_ in kept or graph.steps[id_].is_last:
            continue
        if statuses[id_] in _KEPT and all(need in kept for need in graph.needs[id_]):
            kept.add(id_)
    return frozenset(kept)


def continued(graph: Graph, kept: Collection[str]) -> frozenset[str]:
    """Return the maps that run again with the same list, so that completed items stay."""
    return frozenset(
        id_
        for id_ in graph.ordinary
        if id_ not in kept
        and graph.steps[id_].map is not None
        and all(need in kept for need in graph.needs[id_])
    )


def continued_below(graph: Graph, kept: Collection[str], again: Collection[str]) -> frozenset[str]:
    """Return the steps whose runs of workflows go on from where those of the earlier run stopped.

    Those that run again with the same input, other than the steps in `again`. A repeat begins with
    its first round.
    """
    return frozenset(
        id_
        for id_ in graph.ordinary
        if id_ not in kept
        and id_ not in again
        and graph.steps[id_].kind is StepKind.WORKFLOW
        and graph.steps[id_].repeat is None
        and all(need in kept for need in graph.needs[id_])
    )
