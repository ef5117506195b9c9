"""Branches, joins, last steps and sub-workflows on real workers."""

from collections import Counter

import pytest

from celeriac.domain.workflows.states import RunStatus
from tests.support.fleet_workflows import FleetWorkflows

pytestmark = pytest.mark.requirement("E3")


@pytest.mark.failure("W11")
def test_a_join_runs_though_one_of_its_branches_is_skipped(flows: FleetWorkflows) -> None:
    seen = "${{ [steps.b.status, steps.c.status] }}"
    ran = flows.run(
        "w11",
        {
            "a": {"task": "pick"},
            "b": {"task": "pick", "needs": ["a"], "when": "input.b"},
            "c": {"task": "pick", "needs": ["a"]},
            "join": {"task": "pick", "with": {"value": seen}},
            "after": {"task": "pick", "with": {"value": "${{ steps.join.result }}"}},
        },
        input={"b": "boolean"},
        given={"b": False},
        returns="${{ steps.after.result }}",
    )

    assert (ran.status, ran.result) == (RunStatus.COMPLETED, ["skipped", "completed"])
    assert flows.made(ran.id) == Counter(a=1, c=1, join=1, after=1)


@pytest.mark.failure("W12")
def test_a_join_of_branches_of_unequal_length_runs_once_after_all(flows: FleetWorkflows) -> None:
    diary = flows.fleet.notes / "w12"
    needs = {
        "a": [], "short": ["a"], "b1": ["a"], "b2": ["b1"], "b3": ["b2"], "c1": ["a"],
        "c2": ["c1", "short"], "join": ["short", "b3", "c2"], "last": ["join", "a"],
    }  # fmt: skip
    steps = {
        name: {"task": "pick", "needs": wanted, "with": {"value": name, "diary": str(diary)}}
        for name, wanted in needs.items()
    }
    ran = flows.run("w12", steps)

    assert ran.status is RunStatus.COMPLETED
    done = diary.read_text().split()
    assert sorted(done) == sorted(needs)
    for name, wanted in needs.items():
        for need in wanted:
            assert done.index(need) < done.index(name), f"{name} began before {need}"


@pytest.mark.failure("W13")
def test_what_needs_only_skipped_steps_is_skipped(flows: FleetWorkflows) -> None:
    ran = flows.run(
        "w13",
        {
            "a": {"task": "pick", "when": "run.schedule != null"},
            "b": {"task": "pick", "needs": ["a"]},
            "c": {"task": "pick", "needs": ["b"]},
            "other": {"task": "pick"},
        },
    )

    assert ran.status is RunStatus.COMPLETED
    assert ran.statuses == {"a": "skipped", "b": "skipped", "c": "skipped", "other": "completed"}
    assert flows.made(ran.id) == Counter(other=1)


@pytest.mark.failure("W14")
@pytest.mark.parametrize("fails", [False, True])
def test_last_steps_run_once_and_a_skipped_one_fails_nothing(
    flows: FleetWorkflows, fails: bool
) -> None:
    flows.define(
        f"w14-{fails}-sub",
        {"none": {"task": "pick", "when": "run.schedule != null"}, "any": {"task": "pick"}},
    )
    ran = flows.run(
        f"w14-{fails}",
        {
            "a": {"task": "pick", "with": {"value": 1, "bad": [1] if fails else []}},
            "sub": {"workflow": f"w14-{fails}-sub", "when": "run.schedule != null"},
            "b": {"task": "pick", "needs": ["a", "sub"]},
            "c": {"task": "pick", "needs": ["b"]},
            "failed": {"task": "pick", "run": "failure"},
            "always": {"task": "pick", "run": "always", "with": {"value": "${{ run.status }}"}},
        },
    )

    made = flows.made(ran.id)
    if fails:
        assert (ran.status, ran.run.error_step) == (RunStatus.FAILED, "a")
        assert made == Counter(a=1, failed=1, always=1)
    else:
        assert (ran.status, ran.statuses["failed"]) == (RunStatus.COMPLETED, "skipped")
        assert made == Counter(a=1, b=1, c=1, always=1)
    assert ran.items("always")[0].result == ("failed" if fails else "completed")


@pytest.mark.failure("W20")
def test_sub_workflows_that_end_at_once_do_not_freeze_their_parent(flows: FleetWorkflows) -> None:
    flows.define("w20-sub", {"none": {"task": "pick", "map": "[]"}})
    ran = flows.run(
        "w20",
        {
            "sub": {"workflow": "w20-sub", "map": str(list(range(20)))},
            "after": {"task": "pick", "needs": ["sub"]},
        },
    )

    assert (ran.status, ran.steps["sub"].completed) == (RunStatus.COMPLETED, 20)
    assert flows.made(ran.id) == Counter(after=1)
