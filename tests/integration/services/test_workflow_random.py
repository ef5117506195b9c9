"""Random graphs, failures, cancellations and orders: every run ends, and nothing happens twice."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celeriac.db.engine import Database
from celeriac.domain.executions.model import Claim
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import UndoOn, WorkflowSpec
from celeriac.domain.workflows.runs import advance
from celeriac.domain.workflows.states import Compensation, RunStatus, StepStatus
from celeriac.domain.workflows.undo import undone_by
from celeriac.kit.json_types import JsonObject
from tests.support.core import Core
from tests.support.workflows import FAILS, Flows, Ran

pytestmark = pytest.mark.requirement("E3")

NAMES = [f"s{number}" for number in range(7)]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Steps that need some of those before them."""
    steps: dict[str, dict[str, Any]] = {}
    for number in range(draw(st.integers(1, 7))):
        name = f"s{number}"
        ordinary = [key for key, step in steps.items() if "run" not in step]
        step: dict[str, Any] = {"task": "work", "with": {"step": name}}
        step["needs"] = draw(st.lists(st.sampled_from(ordinary), unique=True)) if ordinary else []
        if draw(st.booleans()):
            step["map"] = str(list(range(draw(st.integers(0, 5)))))
            step["parallel"] = draw(st.sampled_from([1, 2, None]))
        if draw(st.booleans()):
            step["on_failure"] = "continue"
        if draw(st.integers(0, 5)) == 0 and number:
            step["run"] = draw(st.sampled_from(["failure", "always"]))
        elif draw(st.booleans()):
            step["undo"] = {"task": "undo", "on": draw(st.sampled_from(["completed", "started"]))}
        steps[name] = step
    return steps


def model(spec: WorkflowSpec, failing: set[str]) -> dict[str, StepStatus]:
    """Return how the steps of a run end whose steps fail or complete as a whole."""
    graph = Graph.of(spec)
    statuses = dict.fromkeys(spec.steps, StepStatus.BLOCKED)
    while True:
        changes = advance(graph, statuses)
        for change in changes:
            statuses[change.step] = change.status
        ready = [name for name, status in statuses.items() if status is StepStatus.READY]
        if not ready:
            return statuses
        for name in ready:
            statuses[name] = StepStatus.FAILED if name in failing else StepStatus.COMPLETED


def assert_order(spec: WorkflowSpec, ended: list[str]) -> None:
    """Fail if an item of a step began before one of what the step needs had ended."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, name in enumerate(ended):
        first.setdefault(name, place)
        last[name] = place
    for name, step in spec.steps.items():
        for need in step.needs:
            if name in first and need in last:
                assert last[need] < first[name], f"{name} began before {need} had ended"


Item = tuple[str, int | None]
"""A step and its item."""


def assert_undo_may_begin(flows: Flows, claim: Claim, running: list[Claim], spec: Graph) -> None:
    """Fail if an undo task begins before all steps, or the undo of what needs its step, ended."""
    step = undone_by(flows.core.get(claim.lease.execution_id).step or "")
    if step is None:
        return
    for other in running:
        of_other = flows.core.get(other.lease.execution_id).step or ""
        undoes = undone_by(of_other)
        assert undoes is not None, f"{step} is undone while {of_other} runs"
        assert undoes not in spec.below(step), f"{step} is undone before {undoes}"


def assert_compensated(flows: Flows, ran: Ran, spec: Graph, ended: list[Claim]) -> None:
    """Fail if not exactly that was undone which must be, after what needs it."""
    expected: set[Item] = set()
    undone: list[Item] = []
    failed = False
    for claim in ended:
        execution = flows.core.get(claim.lease.execution_id)
        of_step = undone_by(execution.step or "")
        completed = execution.status is Status.COMPLETED
        if of_step is not None:
            undone.append((of_step, execution.item))
            failed = failed or not completed
            continue
        undo = spec.steps[execution.step or ""].undo
        if undo is not None and (completed or undo.on is UndoOn.STARTED):
            expected.add((execution.step or "", execution.item))
    if ran.status is RunStatus.COMPLETED:
        expected = set()
    assert sorted(undone) == sorted(expected)
    kept: dict[bool, Compensation] = {
        True: Compensation.COMPENSATION_FAILED, False: Compensation.COMPENSATED
    }  # fmt: skip
    assert ran.run.compensation == (kept[failed] if expected else None)
    order = [step for step, _ in undone]
    for step in order:
        after = {place for place, other in enumerate(order) if other in spec.below(step)}
        assert max(after, default=-1) < order.index(step)


@settings(
    max_examples=35,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example takes minutes to find
)
@given(
    steps=graphs(),
    seed=st.integers(0, 2**32),
    failures=st.tuples(st.sets(st.sampled_from(NAMES), max_size=2), st.sampled_from(NAMES)),
    cancel_after=st.one_of(st.none(), st.integers(0, 9)),
)
def test_every_run_ends_and_counts_right(
    database: Database,
    steps: dict[str, dict[str, Any]],
    seed: int,
    failures: tuple[set[str], str],
    cancel_after: int | None,
) -> None:
    failing, failing_undo = failures
    flows = Flows(Core(database), "work", "undo")
    workflow = flows.define("w", steps)
    spec = WorkflowSpec.model_validate({"steps": steps})
    graph = Graph.of(spec)

    def work(name: str, given: JsonObject) -> object:
        if name == "undo":
            return FAILS if given["input"]["step"] == failing_undo else None
        return FAILS if given["step"] in failing else given["step"]

    run_id = flows.start(workflow)
    running: list[Claim] = []
    ended: list[Claim] = []
    order = Random(seed)
    while True:
        while (claim := flows.take()) is not None:
            assert_undo_may_begin(flows, claim, running, graph)
            running.append(claim)
        if len(ended) == cancel_after:
            flows.runs.cancel(flows.core.actor, run_id)
            cancel_after = -1
            continue
        if not running:
            break
        claim = running.pop(order.randrange(len(running)))
        flows.end(claim, work)
        ended.append(claim)
        if order.randrange(3) == 0:  # a message that comes again, and an answer that was lost
            flows.core.finish(claim, FAILS, (), None)
            flows.advance.after([run_id])

    ran = flows.ran(run_id)
    assert ran.status.terminal
    flows.assert_counted()
    assert flows.advance.due(100) == 0, "the keeper finds nothing to do"
    items = Counter(claim.lease.execution_id for claim in ended)
    assert set(items.values()) <= {1}
    assert_order(spec, [given_["step"] for name, given_ in flows.done if name == "work"])
    assert_compensated(flows, ran, graph, ended)
    whole = cancel_after is None and all("map" not in step for step in steps.values())
    if whole and not failing:
        assert {name: StepStatus(s) for name, s in ran.statuses.items()} == model(spec, set())
        assert ran.status is RunStatus.COMPLETED
