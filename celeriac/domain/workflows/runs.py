"""The rules of a run: when a step may begin, and how a run ends (pure).

The engine keeps the same state as rows; these functions are the rules that its statements follow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import RunOn, Step
from celeriac.domain.workflows.states import RunStatus, StepStatus

Statuses = Mapping[str, StepStatus]
"""The status of every step of a run, by its id."""

FAILURES = frozenset({StepStatus.FAILED, StepStatus.CANCELLED})
"""A step that a person cancels counts as failed."""


class Join(StrEnum):
    """What the steps that a step needs mean for it."""

    BLOCKED = "blocked"
    """One of them has not settled."""
    READY = "ready"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    """One of them failed, and its failure isn't tolerated: the step never begins."""

    @property
    def status(self) -> StepStatus:
        """The status that the step gets."""
        return StepStatus(self.value)


@dataclass(frozen=True, slots=True)
class Need:
    """A step that another one needs; `tolerated` says whether the run goes on if it fails."""

    status: StepStatus
    tolerated: bool = False


def join(needs: Iterable[Need]) -> Join:
    """Return what the needs of an ordinary step mean for it.

    Ready: all have settled, none failed, none was denied, and at least one ran; or there are none.
    A failure that is tolerated counts as run. All skipped, or one denied: skipped.
    """
    given = list(needs)
    statuses = {need.status for need in given}
    if any(not status.terminal for status in statuses):
        return Join.BLOCKED
    if any(need.status in FAILURES and not need.tolerated for need in given):
        return Join.CANCELLED
    if StepStatus.DENIED in statuses or statuses == {StepStatus.SKIPPED}:
        return Join.SKIPPED
    return Join.READY


def join_last(needs: Iterable[StepStatus]) -> Join:
    """Return what the needs of a last step among the last steps mean for it: only an order."""
    return Join.READY if all(status.terminal for status in needs) else Join.BLOCKED


def join_of(graph: Graph, step: str, statuses: Statuses) -> Join:
    """Return `join` for an ordinary step of a run."""
    return join(
        Need(statuses[need], tolerated=graph.steps[need].tolerated) for need in graph.needs[step]
    )


def settled(graph: Graph, statuses: Statuses) -> bool:
    """Whether all ordinary steps have settled."""
    return all(statuses[id_].terminal for id_ in graph.ordinary)


def failure(graph: Graph, statuses: Statuses) -> str | None:
    """Return the first step, in the order of the document, whose failure fails the run, or None.

    A step that never began because another one failed is not the cause.
    """
    failed = [
        id_ for id_, step in graph.steps.items() if statuses[id_] in FAILURES and not step.tolerated
    ]
    causes = [id_ for id_ in failed if statuses[id_] is StepStatus.FAILED]
    return next(iter(causes or failed), None)


def begins(step: Step, outcome: RunStatus) -> bool:
    """Whether a last step runs when the ordinary steps have settled with this outcome.

    `outcome` is completed, failed or cancelled.
    """
    if step.run is RunOn.FAILURE:
        return outcome is RunStatus.FAILED
    return True


def outcome_of_run(
    graph: Graph, statuses: Statuses, *, stopped: RunStatus | None = None
) -> RunStatus:
    """Return how a run ends whose steps have all settled: completed, failed or cancelled.

    `stopped` is `cancelled` if a person cancelled the run, `failed` if it met its deadline. A run
    with an ordinary step that neither ran nor was skipped is never completed.
    """
    if stopped is not None:
        return stopped
    return RunStatus.COMPLETED if failure(graph, statuses) is None else RunStatus.FAILED


@dataclass(frozen=True, slots=True)
class Change:
    """A step that gets a new status."""

    step: str
    status: StepStatus


def advance(graph: Graph, statuses: Statuses, *, stopped: RunStatus | None = None) -> list[Change]:
    """Return the steps that change because others have settled, each with its new status.

    If the run has failed, or is `stopped` (as in `outcome_of_run`), the ordinary steps that haven't
    begun are cancelled. After all ordinary steps have settled, the last ones become ready or are
    skipped. `statuses` isn't changed.
    """
    now = dict(statuses)
    stop = stopped is not None or failure(graph, _without_last(graph, now)) is not None
    changes = []
    for id_ in graph.order:
        status = now[id_]
        if graph.steps[id_].is_last:
            if status is StepStatus.BLOCKED:
                status = _last(graph, id_, now, stopped)
        elif stop and status in {StepStatus.BLOCKED, StepStatus.READY}:
            status = StepStatus.CANCELLED
        elif status is StepStatus.BLOCKED:
            status = join_of(graph, id_, now).status
        if status is not now[id_]:
            now[id_] = status
            changes.append(Change(id_, status))
    return changes


def _last(graph: Graph, id_: str, statuses: Statuses, stopped: RunStatus | None) -> StepStatus:
    if not settled(graph, statuses):
        return StepStatus.BLOCKED
    among = [statuses[need] for need in graph.needs[id_] if graph.steps[need].is_last]
    if join_last(among) is Join.BLOCKED:
        return StepStatus.BLOCKED
    outcome = outcome_of_run(graph, _without_last(graph, statuses), stopped=stopped)
    return StepStatus.READY if begins(graph.steps[id_], outcome) else StepStatus.SKIPPED


def _without_last(graph: Graph, statuses: Statuses) -> Statuses:
    return {
        id_: StepStatus.SKIPPED if step.is_last else statuses[id_]
        for id_, step in graph.steps.items()
    }
