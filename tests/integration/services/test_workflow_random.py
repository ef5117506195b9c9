"""Random graphs, failures, cancellations and orders: every run ends, and nothing happens twice."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celeriac.db.engine import Database
from celeriac.domain.executions.model import Claim
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.runs import advance
from celeriac.domain.workflows.states import RunStatus, StepStatus
from tests.support.core import Core
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")


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


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=graphs(),
    order=st.randoms(use_true_random=False),
    failing=st.sets(st.sampled_from([f"s{n}" for n in range(7)]), max_size=2),
    cancel_after=st.one_of(st.none(), st.integers(0, 6)),
)
def test_every_run_ends_and_counts_right(
    database: Database,
    steps: dict[str, dict[str, Any]],
    order: Any,
    failing: set[str],
    cancel_after: int | None,
) -> None:
    flows = Flows(Core(database))
    flows.add_task("work")
    workflow = flows.define("w", steps)
    run_id = flows.start(workflow)
    running: list[Claim] = []
    ended: list[Claim] = []
    while True:
        while (claim := flows.take()) is not None:
            running.append(claim)
        if len(ended) == cancel_after:
            flows.runs.cancel(flows.core.actor, run_id)
            cancel_after = -1
            continue
        if not running:
            break
        claim = running.pop(order.randrange(len(running)))
        flows.end(claim, lambda _name, given: FAILS if given["step"] in failing else given["step"])
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
    spec = WorkflowSpec.model_validate({"steps": steps})
    assert_order(spec, [given_["step"] for _, given_ in flows.done])
    whole = cancel_after is None and all("map" not in step for step in steps.values())
    if whole and not failing:
        assert {name: StepStatus(s) for name, s in ran.statuses.items()} == model(spec, set())
        assert ran.status is RunStatus.COMPLETED
