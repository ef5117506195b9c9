"""Items of maps, rounds of repeats and workflows in steps are undone, each once."""

from collections.abc import Callable
from typing import Any

import pytest

from celeriac.db.workflows import undo
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows import undo_items
from celeriac.services.workflows.chunks import Spawned
from tests.support.undo import (
    MAP,
    all_claims,
    chain,
    failing,
    names,
    of_map,
    undone,
)
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")


def test_each_completed_item_of_a_map_is_undone_a_few_at_a_time(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_items, "CHUNK", 3)
    run_id = flows.start(flows.define("w", MAP, input={"list": "array"}), list=list(range(10)))
    while "end" not in names(flows):
        flows.drive(of_map(2, 5), most=1)
    claims = all_claims(flows)
    assert len(claims) == 2, "as many at a time as of the map"
    for claim in claims:
        flows.end(claim)
    flows.drive()

    ran = flows.ran(run_id)
    assert ran.run.compensation is Compensation.COMPENSATED
    done = [given for name, given in flows.done if name == "undo-each"]
    expected = [n for n in range(10) if n not in {2, 5}]
    assert sorted(each["result"] for each in done) == [10 * n for n in expected]
    assert all(each["input"] == {"x": each["result"] // 10} for each in done)
    items = ran.items("each.undo")
    assert [each.item_no for each in items] == expected, "an item has the number of what it undoes"
    step = ran.steps["each.undo"]
    assert (step.width, step.completed, step.remaining) == (8, 8, 0)
    flows.assert_counted()


def test_completed_items_of_a_failed_map_are_undone_and_on_started_the_failed_too(
    flows: Flows,
) -> None:
    steps = {"each": {**MAP["each"], "max_failures": 0, "parallel": None}}
    del steps["each"]["parallel"]
    fields: dict[str, Any] = {"input": {"list": "array"}, "given": {"list": [1, 2, 3]}}
    ran = flows.run(steps, of_map(3), **fields)
    assert ran.statuses == {"each": "failed", "each.undo": "completed"}
    assert [each.item_no for each in ran.items("each.undo")] == [0, 1]

    steps["each"]["undo"] = {"task": "undo-each", "on": "started"}
    ran = flows.run(steps, of_map(3), **fields)
    assert [each.item_no for each in ran.items("each.undo")] == [0, 1, 2]
    flows.assert_counted()


def test_a_failed_item_of_an_undo_step_is_named(flows: Flows) -> None:
    def work(name: str, given: JsonObject) -> object:
        if name == "undo-each":
            return FAILS if given["input"]["x"] in {4, 6} else None
        return of_map()(name, given)

    ran = flows.run(MAP, work, input={"list": "array"}, given={"list": list(range(8))})
    step = ran.steps["each.undo"]
    assert (step.completed, step.failed, step.error_code) == (6, 2, "undo_failed")
    assert step.error_message == "2 of 8 items were not undone. Item 4: it failed"
    flows.assert_counted()


def test_items_that_share_a_key_are_undone_once(flows: Flows) -> None:
    steps = {**MAP, "each": {**MAP["each"], "key": "item"}}
    ran = flows.run(steps, of_map(), input={"list": "array"}, given={"list": [7, 8, 7, 7]})
    assert [each.item_no for each in ran.items("each.undo")] == [0, 1]
    flows.assert_counted()


def test_the_rounds_of_a_repeat_are_undone_one_by_one_the_last_first(flows: Flows) -> None:
    steps = {
        "draft": {
            "task": "draft", "with": {"round": "${{ index }}"},
            "repeat": {"until": "false", "max": 3}, "undo": "undo-draft",
        },
        "end": {"task": "end", "needs": ["draft"]},
    }  # fmt: skip
    run_id = flows.start(flows.define("w", steps))
    while "end" not in names(flows):
        flows.drive(failing("end"), most=1)
    for _ in range(3):
        (claim,) = all_claims(flows)
        flows.end(claim)
    ran = flows.ran(run_id)
    assert ran.run.compensation is Compensation.COMPENSATED
    rounds = [given["input"]["round"] for name, given in flows.done if name == "undo-draft"]
    assert rounds == [2, 1, 0]
    flows.assert_counted()


def test_a_workflow_in_a_step_is_undone_with_its_result(flows: Flows) -> None:
    flows.define("sub", chain("inner"), input={"x": "integer"}, returns="${{ steps.inner.result }}")
    steps = {
        "below": {"workflow": "sub", "with": {"x": 1}, "undo": "undo-below"},
        "end": {"task": "end", "needs": ["below"]},
    }
    ran = flows.run(steps, failing("end"))
    assert ran.run.compensation is Compensation.COMPENSATED
    assert flows.done[-1] == (
        "undo-below", {"input": {"x": 1}, "result": "inner", "error": None},
    )  # fmt: skip
    assert undone(flows) == ["undo-below"], "the run below completed: only its parent knows more"
    flows.assert_counted()


def test_a_failed_workflow_in_a_step_undoes_itself_before_its_parent_goes_on(
    flows: Flows,
) -> None:
    flows.define("sub", chain("inner", "bad"))
    steps = {
        "first": {"task": "first", "undo": "undo-first"},
        "below": {"workflow": "sub", "needs": ["first"],
                  "undo": {"task": "undo-below", "on": "started"}},
    }  # fmt: skip
    ran = flows.run(steps, failing("bad"))
    assert undone(flows) == ["undo-inner", "undo-below", "undo-first"]
    (child,) = flows.children(ran.id)
    assert (child.status, child.compensation) == (RunStatus.FAILED, Compensation.COMPENSATED)
    flows.assert_counted()


def test_a_cancelled_run_waits_for_the_compensation_below_it(flows: Flows) -> None:
    flows.define("sub", chain("inner", "bad"))
    steps = {"below": {"workflow": "sub"}, "side": {"task": "side", "undo": "undo-side"}}
    run_id = flows.start(flows.define("w", steps))
    while "bad" not in names(flows):
        flows.drive(failing("bad"), most=1)
    (child,) = flows.children(run_id)
    assert child.status is RunStatus.COMPENSATING

    flows.runs.cancel(flows.core.actor, run_id)

    assert flows.advance(run_id, seconds=5.0), "nothing is left to do until the run below ends"
    assert flows.ran(run_id).status is RunStatus.RUNNING
    flows.drive()
    (child,) = flows.children(run_id)
    assert (child.status, child.compensation) == (RunStatus.FAILED, Compensation.COMPENSATED)
    ran = flows.ran(run_id)
    assert ran.status is RunStatus.CANCELLED
    assert sorted(undone(flows)) == sorted(
        ["undo-inner", *(["undo-side"] if "side" in names(flows) else [])]
    )
    flows.assert_counted()


Dies = Callable[..., Spawned]


def test_the_keeper_goes_on_where_a_process_died_between_two_chunks(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_items, "CHUNK", 2)
    proper = flows.advance._spawn_undo
    calls: list[int] = []

    def dies(run: Any, plan: Any, step_no: int) -> Spawned:
        calls.append(step_no)
        if len(calls) in {1, 3}:
            raise RuntimeError("killed")
        made = proper(run, plan, step_no)
        if len(calls) == 2:
            raise RuntimeError("killed after the commit")
        return made

    monkeypatch.setattr(flows.advance, "_spawn_undo", dies)
    steps = {**MAP, "each": {k: v for k, v in MAP["each"].items() if k != "parallel"}}
    fields: dict[str, Any] = {"input": {"list": "array"}, "given": {"list": list(range(7))}}
    run_id = flows.run(steps, of_map(), **fields).id
    assert flows.ran(run_id).status is RunStatus.COMPENSATING
    for _ in range(3):
        flows.keep()
    ran = flows.ran(run_id)
    assert ran.run.compensation is Compensation.COMPENSATED
    assert sorted(given["input"]["x"] for n, given in flows.done if n == "undo-each") == [*range(7)]
    flows.assert_counted()


def test_what_is_read_at_once_is_bounded_by_its_size_as_json(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    proper = undo.next_items

    def counting(*arguments: Any, **more: Any) -> list[undo.Undone]:
        found = proper(*arguments, **more)
        read.append(len(found))
        return found

    def work(name: str, given: JsonObject) -> object:
        # stored, it is a hundred times smaller
        return "x" * 7_000_000 if name == "each" else of_map()(name, given)

    monkeypatch.setattr(undo, "next_items", counting)
    steps = {**MAP, "each": {k: v for k, v in MAP["each"].items() if k != "parallel"}}
    fields: dict[str, Any] = {"input": {"list": "array"}, "given": {"list": list(range(4))}}
    run_id = flows.run(steps, work, **fields).id

    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATED
    assert [count for count in read if count] == [3, 1]


def test_what_cannot_be_undone_any_more_is_said(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", chain("a", "b", "c")))
    flows.drive(most=2)
    (item,) = flows.ran(run_id).items("a")
    flows.core.execute("DELETE FROM executions WHERE id = :id", id=item.execution_id)
    flows.drive(failing("c"))
    ran = flows.ran(run_id)
    assert ran.run.compensation is Compensation.COMPENSATION_FAILED
    assert undone(flows) == ["undo-b"]
    failed = ran.steps["a.undo"]
    assert (failed.error_code, failed.failed) == ("conflict", 1)
    assert "by hand" in (failed.error_message or "")


def test_an_undo_task_that_takes_other_variables_fails_alone(flows: Flows) -> None:
    schema = {"type": "object", "properties": {"result": {"type": "integer"}}}
    flows.add_task("undo-b", variables_schema=schema)
    ran = flows.run(chain("a", "b", "c"), failing("c"))
    assert undone(flows) == ["undo-a"]
    assert ran.steps["b.undo"].error_code == "variables_invalid"
    assert ran.run.compensation is Compensation.COMPENSATION_FAILED
    flows.assert_counted()
