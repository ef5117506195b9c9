"""Maps: every item is made once and counted once, however and in whatever order items end."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celeriac.domain.executions.model import Failed, Failure, Retry
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows import chunks as making
from tests.support.core import LEASE_SECONDS
from tests.support.workflows import FAILS, Flows, Ran

MAP = {
    "each": {"task": "each", "map": "input.list", "with": {"x": "${{ item }}"}},
    "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}},
}


def double(name: str, given: JsonObject) -> object:
    return given["x"] * 2 if name == "each" else given


def started(flows: Flows, count: int, **step: Any) -> Ran:
    """Start a run that maps over so many numbers."""
    steps = {**MAP, "each": {**MAP["each"], **step}}
    workflow = flows.define(f"w{count}", steps, input={"list": "array"})
    return flows.ran(flows.start(workflow, list=list(range(count))))


@pytest.mark.requirement("E3")
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 70])
def test_a_map_over_any_number_hands_its_results_on_in_order(flows: Flows, count: int) -> None:
    run = started(flows, count)
    flows.drive(double)
    ran = flows.ran(run.id)
    assert ran.status is RunStatus.COMPLETED
    assert ran.status_of("each") is StepStatus.COMPLETED
    assert flows.done[-1] == ("all", {"all": [2 * n for n in range(count)]})
    assert Counter(name for name, _ in flows.done) == Counter({"each": count, "all": 1})
    flows.assert_counted()


def test_items_that_end_at_the_same_moment_start_one_successor(flows: Flows) -> None:
    run = started(flows, 64)
    claims = []
    while (claim := flows.take()) is not None:
        claims.append(claim)
    assert len(claims) == 64
    barrier = threading.Barrier(12)

    def end(part: int) -> None:
        barrier.wait()
        for claim in claims[part::12]:
            flows.end(claim, double)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(end, range(12)))
    flows.drive(double)
    assert flows.ran(run.id).status is RunStatus.COMPLETED
    assert Counter(name for name, _ in flows.done) == Counter({"each": 64, "all": 1})
    flows.assert_counted()


def test_an_item_that_fails_twice_and_then_succeeds_counts_once(flows: Flows) -> None:
    tries: Counter[int] = Counter()

    def work(name: str, given: JsonObject) -> object:
        if name == "each":
            tries[given["x"]] += 1
            if tries[given["x"]] < 3:
                return Retry(Failure("agent_failed", "again", {"type": "E", "attempt": 1}), 0.0)
        return given

    run = started(flows, 3)
    flows.drive(work)
    assert flows.ran(run.id).status is RunStatus.COMPLETED
    assert set(tries.values()) == {3}
    flows.assert_counted()


def test_every_message_that_comes_twice_counts_once(flows: Flows) -> None:
    run = started(flows, 5)
    while (claim := flows.take()) is not None:
        flows.end(claim, double)
        flows.core.finish(claim, FAILS, (), None)
        assert flows.core.claim(flows.core.message(claim.lease.execution_id)) is None
    ran = flows.ran(run.id)
    assert (ran.status, ran.steps["each"].completed) == (RunStatus.COMPLETED, 5)
    flows.assert_counted()


def test_a_failed_item_fails_the_map_and_what_has_not_begun_is_cancelled(flows: Flows) -> None:
    run = started(flows, 40)
    claim = flows.take()
    assert claim is not None
    flows.end(claim, lambda _name, _given: FAILS)
    ran = flows.ran(run.id)
    assert ran.status_of("each") is StepStatus.FAILED
    assert (ran.steps["each"].failed, ran.steps["each"].cancelled) == (1, 39)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "too_many_failures")
    assert ran.run.error_message == "1 of 40 items failed; 0 may. Item 0: it failed"
    assert ran.statuses["all"] == "cancelled"
    assert len(flows.done) == 1
    flows.assert_counted()


def test_failures_within_the_limit_leave_gaps_in_the_results(flows: Flows) -> None:
    run = started(flows, 20, on_failure="continue", max_failures="10%")
    flows.drive(lambda name, given: FAILS if given.get("x") in {3, 7} else double(name, given))
    ran = flows.ran(run.id)
    assert ran.status is RunStatus.COMPLETED
    expected: list[int | None] = [2 * n for n in range(20)]
    expected[3] = expected[7] = None
    assert flows.done[-1] == ("all", {"all": expected})
    flows.assert_counted()


def test_a_lost_worker_counts_as_a_failed_item(flows: Flows) -> None:
    run = started(flows, 2, on_failure="continue")
    flows.core.execute("UPDATE executions SET max_crashes = 1")
    assert flows.take() is not None
    flows.core.pass_time(LEASE_SECONDS + 1)
    assert flows.core.rescue() == 1
    flows.drive(double)
    ran = flows.ran(run.id)
    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["each"].failed, ran.steps["each"].completed) == (1, 1)
    flows.assert_counted()


def test_an_item_that_a_person_cancels_counts_as_failed(flows: Flows) -> None:
    run = started(flows, 3)
    items = flows.ran(run.id).items("each")
    flows.cancel(flows.core.actor, [items[1].execution_id])
    flows.drive(double)
    ran = flows.ran(run.id)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "step_cancelled")
    assert ran.status_of("each") is StepStatus.CANCELLED
    flows.assert_counted()


def test_no_more_items_run_at_a_time_than_the_step_allows(flows: Flows) -> None:
    run = started(flows, 25, parallel=4)
    most = 0
    running: list[Any] = []
    while True:
        while (claim := flows.take()) is not None:
            running.append(claim)
        if not running:
            break
        each = [c for c in running if flows.names[c.task_id] == "each"]
        most = max(most, len(each))
        flows.end(running.pop(0), double)
    assert most == 4
    assert flows.ran(run.id).status is RunStatus.COMPLETED
    assert Counter(name for name, _ in flows.done) == Counter({"each": 25, "all": 1})
    flows.assert_counted()


def test_items_with_the_same_key_run_once_and_both_have_the_result(flows: Flows) -> None:
    ran = flows.run(
        {
            "each": {
                "task": "each", "map": "input.list", "key": "item", "with": {"x": "${{ item }}"},
            },
            "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}},
        },
        lambda name, given: given["x"].upper() if name == "each" else given,
        input={"list": "array"},
        given={"list": ["a", "b", "a", "c", "b"]},
    )  # fmt: skip
    assert ran.status is RunStatus.COMPLETED
    assert Counter(name for name, _ in flows.done) == Counter({"each": 3, "all": 1})
    assert flows.done[-1] == ("all", {"all": ["A", "B", "A", "C", "B"]})
    flows.assert_counted()


def test_a_dead_process_leaves_the_cursor_and_the_keeper_goes_on(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "CHUNK", 10)
    workflow = flows.define("w", MAP, input={"list": "array"})
    chunks = 0
    proper = flows.advance._spawn

    def dies(*given: Any) -> Any:
        nonlocal chunks
        chunks += 1
        if chunks == 3:
            raise RuntimeError("killed")
        return proper(*given)

    monkeypatch.setattr(flows.advance, "_spawn", dies)
    run_id = flows.start(workflow, list=list(range(55)))
    assert flows.ran(run_id).steps["each"].spawned == 20
    monkeypatch.setattr(flows.advance, "_spawn", proper)
    flows.core.execute("UPDATE step_runs SET due_at = due_at - interval '1 minute'")

    assert flows.advance.due(10) == 1

    assert flows.ran(run_id).steps["each"].spawned == 55
    flows.drive(double)
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    assert Counter(name for name, _ in flows.done) == Counter({"each": 55, "all": 1})
    assert flows.advance.due(10) == 0
    flows.assert_counted()


def test_the_items_that_are_left_of_a_chunk_complete_with_those_before(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All items that were made end before the next chunk is made."""
    monkeypatch.setattr(making, "CHUNK", 4)
    proper = flows.advance._spawn

    def drives(*given: Any) -> Any:
        made = proper(*given)
        flows.core.dispatch.send_eligible()
        flows.drive(double)
        return made

    monkeypatch.setattr(flows.advance, "_spawn", drives)
    run = started(flows, 10)
    flows.drive(double)
    assert flows.ran(run.id).status is RunStatus.COMPLETED
    assert Counter(name for name, _ in flows.done) == Counter({"each": 10, "all": 1})
    flows.assert_counted()


def test_large_results_are_handed_on_by_reference(flows: Flows) -> None:
    run = started(flows, 30)
    flows.drive(lambda name, given: "x" * 10_000 if name == "each" else given)
    assert flows.ran(run.id).status is RunStatus.COMPLETED
    reference = {"results_of": {"run": str(run.id), "step": "each", "count": 30}}
    assert flows.done[-1] == ("all", {"all": reference})


def test_an_item_whose_expression_has_no_value_fails_alone(flows: Flows) -> None:
    ran = flows.run(
        {
            "each": {
                "task": "each", "map": "input.list", "with": {"x": "${{ item.name }}"},
                "on_failure": "continue",
            },
        },
        input={"list": "array"},
        given={"list": [{"name": "a"}, {"nam": "b"}, {"name": "c"}]},
    )  # fmt: skip
    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["each"].completed, ran.steps["each"].failed) == (2, 1)
    assert [each.status for each in ran.items("each")] == ["completed", "failed", "completed"]
    assert ran.items("each")[1].error_code == "expression_error"
    flows.assert_counted()


def test_a_cancelled_run_cancels_all_items_and_starts_nothing_after(flows: Flows) -> None:
    run = started(flows, 50)
    running = [flows.take() for _ in range(5)]
    cancelled = flows.runs.cancel(flows.core.actor, run.id)
    assert cancelled.status is RunStatus.RUNNING
    ran = flows.ran(run.id)
    assert (ran.steps["each"].cancelled, ran.steps["each"].remaining) == (45, 5)
    for claim in running:
        assert claim is not None
        flows.end(claim, double)  # before its worker heard of it
    ran = flows.ran(run.id)
    assert ran.status is RunStatus.CANCELLED
    assert ran.statuses == {"each": "cancelled", "all": "cancelled"}
    assert flows.take() is None
    flows.assert_counted()


def test_a_deadline_cancels_what_runs_and_fails_the_run(flows: Flows) -> None:
    steps = {**MAP, "oops": {"task": "oops", "run": "failure"}}
    workflow = flows.define("w", steps, input={"list": "array"}, deadline="1h")
    run_id = flows.start(workflow, list=[1, 2, 3])
    assert flows.advance.overdue(10) == 0
    flows.core.execute("UPDATE workflow_runs SET deadline_at = now() - interval '1 second'")
    assert flows.advance.overdue(10) == 1
    assert flows.advance.overdue(10) == 0
    flows.drive()
    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "deadline")
    assert ran.statuses == {"each": "cancelled", "all": "cancelled", "oops": "completed"}
    assert {item.status for item in ran.items("each")} == {Status.CANCELLED}
    flows.assert_counted()


def test_a_worker_that_wins_against_a_cancellation_makes_no_successor(flows: Flows) -> None:
    workflow = flows.define("w", {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}})
    for _ in range(20):
        run_id = flows.start(workflow)
        claim = flows.take()
        assert claim is not None
        with ThreadPoolExecutor(2) as pool:
            ends = pool.submit(flows.end, claim)
            cancels = pool.submit(flows.runs.cancel, flows.core.actor, run_id)
            ends.result()
            cancels.result()
        flows.drive()
        ran = flows.ran(run_id)
        assert ran.status is RunStatus.CANCELLED
        assert ran.statuses["b"] == "cancelled" or [name for name, _ in flows.done].count("b")
        flows.done.clear()
    flows.assert_counted()


def test_a_failure_can_stop_what_runs(flows: Flows) -> None:
    workflow = flows.define(
        "w", {"a": {"task": "a"}, "b": {"task": "b"}}, on_failure="cancel_running"
    )
    run_id = flows.start(workflow)
    first, second = flows.take(), flows.take()
    assert first is not None
    assert second is not None
    flows.end(first, lambda _name, _given: Failed(Failure("agent_failed", "no", {})))
    assert flows.core.get(second.lease.execution_id).cancel_requested_at is not None
    flows.end(second, lambda _name, _given: Retry(Failure("x", "y", {}), 0.0))
    ran = flows.ran(run_id)
    assert ran.status is RunStatus.FAILED
    assert sorted(ran.statuses.values()) == ["cancelled", "failed"]
    flows.assert_counted()
