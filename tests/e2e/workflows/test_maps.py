"""Maps on real workers: whatever happens to items, what follows begins once, with all of them."""

from collections import Counter
from typing import Any

import pytest

from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.workflows.again import ForkRequest
from tests.support.fleet_workflows import FleetWorkflows

pytestmark = pytest.mark.requirement("E3")

REDUCE = {"task": "pick", "with": {"value": "${{ steps.each.results }}"}}


def each(over: str, **with_: Any) -> dict[str, Any]:
    """Return a step that maps over a list."""
    return {"task": "pick", "map": over, "with": {"value": "${{ item }}", **with_}}


@pytest.mark.failure("W2")
def test_the_tails_of_nested_maps_begin_once_each(flows: FleetWorkflows) -> None:
    """A map in a sub-workflow in a map in a sub-workflow in a map."""
    flows.define(
        "w2-inner",
        {
            "leaf": each("[0, 1, 2]", value="${{ item + 10 * input.n }}"),
            "inner_tail": {"task": "pick", "with": {"value": "${{ steps.leaf.results }}"}},
        },
        input={"n": "integer"},
        returns="${{ steps.inner_tail.result }}",
    )
    flows.define(
        "w2-middle",
        {
            "inner": {
                "workflow": "w2-inner", "map": "[0, 1, 2]",
                "with": {"n": "${{ item + 10 * input.n }}"},
            },
            "middle_tail": {"task": "pick", "with": {"value": "${{ steps.inner.results }}"}},
        },
        input={"n": "integer"},
        returns="${{ steps.middle_tail.result }}",
    )  # fmt: skip
    ran = flows.run(
        "w2",
        {
            "middle": {"workflow": "w2-middle", "map": "[0, 1, 2]", "with": {"n": "${{ item }}"}},
            "tail": {"task": "pick", "with": {"value": "${{ steps.middle.results }}"}},
        },
        returns="${{ steps.tail.result }}",
    )

    assert ran.status is RunStatus.COMPLETED
    three = range(3)
    assert ran.result == [[[a * 100 + b * 10 + c for c in three] for b in three] for a in three]
    assert flows.made(ran.id) == Counter(leaf=27, inner_tail=9, middle_tail=3, tail=1)


@pytest.mark.failure("W4")
@pytest.mark.parametrize("count", [0, 1])
def test_a_map_over_nothing_or_one_item_is_a_map(flows: FleetWorkflows, count: int) -> None:
    ran = flows.run(
        f"w4-{count}",
        {"each": each("input.list"), "all": REDUCE},
        input={"list": "array"},
        given={"list": list(range(count))},
        returns="${{ steps.all.result }}",
    )

    assert (ran.status, ran.result) == (RunStatus.COMPLETED, list(range(count)))
    assert flows.made(ran.id) == Counter({"each": count, "all": 1}) - Counter(each=0)


@pytest.mark.failure("W5")
def test_a_failure_in_a_nested_map_reaches_the_failure_step_once(flows: FleetWorkflows) -> None:
    flows.define("w5-inner", {"leaf": each("[0, 1, 2, 3]", bad="${{ input.bad }}")},
                 input={"bad": "array"})  # fmt: skip
    flows.define(
        "w5-middle",
        {
            "inner": {
                "workflow": "w5-inner", "map": "[0, 1, 2]",
                "with": {"bad": "${{ item == 1 ? [1, 2] : [] }}"},
            },
            "inner_failed": {"task": "pick", "run": "failure"},
        },
    )  # fmt: skip
    ran = flows.run(
        "w5",
        {
            "middle": {"workflow": "w5-middle", "map": "[0, 1]"},
            "after": {"task": "pick", "needs": ["middle"]},
            "failed": {
                "task": "pick", "run": "failure", "with": {"value": "${{ run.error.step }}"},
            },
        },
    )  # fmt: skip

    assert (ran.status, ran.run.error_step) == (RunStatus.FAILED, "middle")
    assert ran.statuses == {"middle": "failed", "after": "cancelled", "failed": "completed"}
    assert ran.items("failed")[0].result == "middle"
    made = flows.made(ran.id)
    assert (made["failed"], made["after"]) == (1, 0)
    assert made["inner_failed"] in {1, 2}, "once in each run that failed before it was cancelled"


@pytest.mark.failure("W7")
def test_items_that_end_at_once_in_two_workers_start_one_successor(flows: FleetWorkflows) -> None:
    gate, diary = flows.fleet.notes / "w7-gate", flows.fleet.notes / "w7-diary"
    numbers = list(range(64))
    run_id = flows.start(
        flows.define(
            "w7",
            {"each": each(str(numbers), gate=str(gate), diary=str(diary)), "all": REDUCE},
            returns="${{ steps.all.result }}",
        )
    )
    flows.wait_lines(diary, 64)

    gate.touch()

    ran = flows.ended(run_id)
    assert (ran.status, ran.result) == (RunStatus.COMPLETED, numbers)
    assert flows.made(run_id) == Counter(each=64, all=1)


@pytest.mark.failure("W8")
def test_an_item_that_completes_in_its_third_attempt_counts_once(flows: FleetWorkflows) -> None:
    retry = {"max_retries": 3, "base_seconds": 0.05, "jitter": 0.0}
    step = {"task": "stumble", "map": "[1, 2, 3, 4]", "retry": retry}
    given = {"diary": str(flows.fleet.notes / "w8"), "times": 2}
    ran = flows.run(
        "w8",
        {"each": {**step, "with": given}, "all": {"task": "pick", "needs": ["each"]}},
    )

    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["each"].completed, ran.steps["each"].failed) == (4, 0)
    assert [item.result["attempt"] for item in ran.items("each")] == [3] * 4
    assert flows.made(ran.id) == Counter(each=4, all=1)


@pytest.mark.failure("W9")
def test_items_that_fail_are_cancelled_or_expire_count_down(flows: FleetWorkflows) -> None:
    gate, diary = flows.fleet.notes / "w9-gate", flows.fleet.notes / "w9-diary"
    run_id = flows.start(
        flows.define(
            "w9",
            {
                "each": {
                    "on_failure": "continue",
                    **each("[0, 1, 2, 3]", bad=[0, 1], gate=str(gate), diary=str(diary)),
                },
                "slow": {
                    "task": "nap", "map": "[1, 2]", "with": {"seconds": 60}, "retry": 0,
                    "timeout": {"soft": 0.2, "hard": 5}, "on_failure": "continue",
                },
                "all": {**REDUCE, "needs": ["slow"]},
            },
            returns="${{ steps.all.result }}",
        )
    )  # fmt: skip
    flows.wait_lines(diary, 4)
    item = flows.ran(run_id).items("each")[2]
    flows.fleet.container.cancel(flows.fleet.actor, [item.execution_id])
    flows.fleet.wait_status(item.execution_id, Status.CANCELLED)

    gate.touch()

    ran = flows.ended(run_id)
    assert (ran.status, ran.result) == (RunStatus.COMPLETED, [None, None, None, 3])
    step = ran.steps["each"]
    assert (step.completed, step.failed, step.cancelled, step.remaining) == (1, 2, 1, 0)
    assert ran.steps["slow"].failed == 2


@pytest.mark.failure("W15")
def test_a_retry_repeats_only_the_items_that_failed(flows: FleetWorkflows) -> None:
    numbers, cured = list(range(40)), flows.fleet.notes / "w15-cured"
    steps = {
        "each": {
            **each(str(numbers), bad=[5, 6, 39], cured=str(cured)),
            # One at a time: the third failure cancels what has not ended, and must be the last.
            "parallel": 1, "on_failure": "continue", "max_failures": 2,
        },
        "all": REDUCE,
    }  # fmt: skip
    failed = flows.run("w15", steps, returns="${{ steps.all.result }}")
    assert failed.status is RunStatus.FAILED
    assert (failed.steps["each"].completed, failed.steps["each"].failed) == (37, 3)
    cured.touch()

    again = flows.ended(flows.runs.retry(flows.fleet.actor, failed.id).run_id)

    assert (again.status, again.result) == (RunStatus.COMPLETED, numbers)
    assert flows.made(again.id) == Counter(each=3, all=1)


@pytest.mark.failure("W19")
def test_items_with_one_key_run_once_and_all_count_down(flows: FleetWorkflows) -> None:
    step = {**each("['a', 'b', 'a', 'c', 'a']"), "key": "item"}
    ran = flows.run("w19", {"each": step, "all": REDUCE}, returns="${{ steps.all.result }}")

    assert (ran.status, ran.result) == (RunStatus.COMPLETED, ["a", "b", "a", "c", "a"])
    assert (ran.steps["each"].completed, ran.steps["each"].remaining) == (5, 0)
    assert flows.made(ran.id) == Counter(each=3, all=1)


@pytest.mark.failure("W24")
def test_single_items_are_run_again(flows: FleetWorkflows) -> None:
    steps = {"each": each("[0, 1, 2, 3]", value="${{ item * input.by }}"), "all": REDUCE}
    origin = flows.run("w24", steps, input={"by": "integer"}, given={"by": 2},
                       returns="${{ steps.all.result }}")  # fmt: skip
    assert origin.result == [0, 2, 4, 6]

    wanted = ForkRequest(step="each", items=[1, 3])
    forked = flows.ended(flows.runs.fork(flows.fleet.actor, origin.id, wanted).run_id)

    assert forked.result == [0, 2, 4, 6]
    assert flows.made(forked.id) == Counter(each=2, all=1)


def test_results_of_many_megabytes_are_read_in_pages_by_agents(flows: FleetWorkflows) -> None:
    """By a coroutine in the worker and by a child process; one names the step, one is given it."""
    count = 120
    ran = flows.run(
        "large-results",
        {
            "each": {
                "task": "large", "map": str(list(range(count))),
                "with": {"number": "${{ item }}", "characters": 100_000},
            },
            "inside": {"task": "numbers", "with": {"step": "each"}, "needs": ["each"]},
            "child": {
                "task": "numbers_in_child", "with": {"step": "${{ steps.each.results }}"},
            },
        },
        returns="${{ {'inside': steps.inside.result, 'child': steps.child.result} }}",
    )  # fmt: skip

    assert ran.status is RunStatus.COMPLETED
    assert ran.result == {"inside": list(range(count)), "child": list(range(count))}
    assert flows.made(ran.id) == Counter(each=count, inside=1, child=1)
