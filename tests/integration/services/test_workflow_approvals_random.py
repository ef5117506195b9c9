"""Random graphs with approvals, answers and orders: each question moves its step once."""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celeriac.db.engine import Database
from celeriac.domain.approvals import Answer, ApprovalStatus
from celeriac.domain.errors import ApprovalClosedError
from celeriac.domain.executions.model import Claim
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import StepKind, WorkflowSpec
from celeriac.domain.workflows.runs import advance, outcome_of_run
from celeriac.domain.workflows.states import RunStatus, StepStatus
from tests.support.core import Core
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")

_NAMES = [f"s{number}" for number in range(7)]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Steps that need some of those before them; about half of them ask."""
    steps: dict[str, dict[str, Any]] = {}
    for name in _NAMES[: draw(st.integers(1, 7))]:
        ordinary = [key for key, step in steps.items() if "run" not in step]
        step: dict[str, Any] = {"task": "work", "with": {"step": name}}
        if draw(st.booleans()):
            policy = st.sampled_from(["skip", "fail"])
            step = {
                "approve": "?", "show": "${{ run.id }}", "expires": "1h",
                "on_denial": draw(policy), "on_expiry": draw(policy),
            }  # fmt: skip
        step["needs"] = draw(st.lists(st.sampled_from(ordinary), unique=True)) if ordinary else []
        if draw(st.booleans()):
            step["on_failure"] = "continue"
        if draw(st.integers(0, 5)) == 0 and steps:
            step["run"] = draw(st.sampled_from(["failure", "always"]))
        steps[name] = step
    return steps


def model(spec: WorkflowSpec, refused: set[str]) -> tuple[dict[str, StepStatus], RunStatus]:
    """Return how steps and run end if the steps in `refused` fail, or are denied."""
    graph = Graph.of(spec)
    statuses = dict.fromkeys(spec.steps, StepStatus.BLOCKED)
    while True:
        for change in advance(graph, statuses):
            statuses[change.step] = change.status
        ready = [name for name, status in statuses.items() if status is StepStatus.READY]
        if not ready:
            return statuses, outcome_of_run(graph, statuses)
        for name in ready:
            step = spec.steps[name]
            bad = StepStatus.FAILED
            if step.kind is StepKind.APPROVE and step.on_denial == "skip":
                bad = StepStatus.DENIED
            statuses[name] = bad if name in refused else StepStatus.COMPLETED


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example takes minutes to find
)
@given(
    steps=graphs(),
    seed=st.integers(0, 2**32),
    refused=st.sets(st.sampled_from(_NAMES), max_size=2),
    closes=st.dictionaries(st.integers(0, 5), st.sampled_from(["cancel", "expire"]), max_size=2),
)
def test_every_question_is_closed_once_and_every_run_ends(
    database: Database,
    steps: dict[str, dict[str, Any]],
    seed: int,
    refused: set[str],
    closes: dict[int, str],
) -> None:
    flows = Flows(Core(database))
    flows.add_task("work")
    run_id = flows.start(flows.define("w", steps))
    running: list[Claim] = []
    order = Random(seed)  # what is asked has no order of its own, so nothing is drawn in the loop

    for turn in range(100):
        if closes.get(turn) == "cancel":
            flows.runs.cancel(flows.core.actor, run_id)
        elif closes.get(turn) == "expire":
            flows.lapse()
        while (claim := flows.take()) is not None:
            running.append(claim)
        asked = flows.asked(run_id)
        if not running and not asked:
            break
        if asked and (not running or order.randrange(2)):
            one = asked[order.randrange(len(asked))]
            answer = Answer(approved=one.step not in refused)
            flows.approvals.answer(flows.core.actor, one.id, answer)
            with pytest.raises(ApprovalClosedError):
                flows.approvals.answer(
                    flows.core.actor, one.id, Answer(approved=not answer.approved)
                )
        else:
            claim = running.pop(order.randrange(len(running)))
            flows.end(
                claim, lambda _name, given: FAILS if given["step"] in refused else given["step"]
            )
        flows.assert_counted()

    ran = flows.ran(run_id)
    assert ran.status.terminal
    flows.assert_counted()
    assert flows.advance.due(100) + flows.expire.expire_overdue(100) == 0
    for asked_one in flows.asked(run_id, only_open=False):
        assert asked_one.status is not ApprovalStatus.OPEN
    spec = WorkflowSpec.model_validate({"steps": steps})
    failing = any(
        name in refused and (spec.steps[name].kind is StepKind.TASK
                             or spec.steps[name].on_denial == "fail")
        for name in steps
    )  # fmt: skip
    if not closes and not failing:
        # a failure makes the outcome of the others a matter of who was first
        assert ({name: StepStatus(s) for name, s in ran.statuses.items()}, ran.status) == model(
            spec, refused
        )
