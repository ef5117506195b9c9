"""Retries and forks of runs repeat only what they must; workflows run other workflows."""

from collections import Counter
from uuid import UUID

import pytest

from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.again import ForkRequest
from tests.support.workflows import FAILS, Flows

MAP = {
    "list": {"task": "list"},
    "each": {
        "task": "each", "map": "steps.list.result", "with": {"x": "${{ item }}"},
        "max_failures": 2,
    },
    "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}},
}  # fmt: skip
NUMBERS = list(range(100))


def ten_fold(name: str, given: JsonObject) -> object:
    if name == "list":
        return NUMBERS
    return given["x"] * 10 if name == "each" else given


def counts(flows: Flows) -> Counter[str]:
    found = Counter(name for name, _ in flows.done)
    flows.done.clear()
    return found


def failed_map(flows: Flows) -> UUID:
    """Run a map of a hundred items of which the last three fail."""
    run_id = flows.start(flows.define("w", MAP))
    flows.drive(
        lambda name, given: FAILS if given.get("x") in {97, 98, 99} else ten_fold(name, given)
    )
    assert flows.ran(run_id).status is RunStatus.FAILED
    assert counts(flows) == Counter({"list": 1, "each": 100})
    return run_id


def test_a_retry_runs_the_three_failed_items_of_a_hundred_and_what_follows(flows: Flows) -> None:
    origin = failed_map(flows)

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive(ten_fold)

    ran = flows.ran(again)
    assert (ran.status, ran.run.origin_id) == (RunStatus.COMPLETED, origin)
    assert flows.done[-1] == ("all", {"all": [10 * n for n in NUMBERS]})
    assert counts(flows) == Counter({"each": 3, "all": 1})
    assert ran.steps["each"].completed == 100
    flows.assert_counted()
    with pytest.raises(ConflictError, match="completed"):
        flows.runs.retry(flows.core.actor, again)


def test_items_that_had_not_ended_run_again_in_a_retry(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", MAP))
    flows.drive(ten_fold, most=41)
    assert flows.take() is not None, "one is running"
    with pytest.raises(ConflictError, match="running"):
        flows.runs.retry(flows.core.actor, run_id)
    flows.runs.cancel(flows.core.actor, run_id)
    flows.core.pass_time(60)
    flows.core.rescue()
    flows.advance.after([run_id])
    assert flows.ran(run_id).status is RunStatus.CANCELLED
    flows.done.clear()

    again = flows.runs.retry(flows.core.actor, run_id).run_id
    flows.drive(ten_fold)

    assert flows.ran(again).status is RunStatus.COMPLETED
    assert flows.done[-1] == ("all", {"all": [10 * n for n in NUMBERS]})
    assert counts(flows) == Counter({"each": 60, "all": 1})
    flows.assert_counted()


CHAIN = {
    "a": {"task": "a", "with": {"x": "${{ input.x }}"}},
    "b": {"task": "b", "with": {"x": "${{ steps.a.result.x }}"}},
    "c": {"task": "c", "with": {"x": "${{ steps.b.result.x }}"}},
}


def test_a_fork_begins_at_its_step_with_what_was_before_it(flows: Flows) -> None:
    origin = flows.run(CHAIN, input={"x": "integer"}, given={"x": 1}).id
    flows.done.clear()
    actor = flows.core.actor

    forked = flows.runs.fork(actor, origin, ForkRequest(step="b")).run_id
    flows.drive()
    assert flows.ran(forked).status is RunStatus.COMPLETED
    assert flows.done == [("b", {"x": 1}), ("c", {"x": 1})]

    flows.done.clear()
    flows.runs.fork(actor, origin, ForkRequest(step="a", input={"x": 2}))
    flows.drive()
    assert flows.done == [("a", {"x": 2}), ("b", {"x": 2}), ("c", {"x": 2})]

    flows.done.clear()
    edited = ForkRequest(step="c", results={"b": {"x": "edited"}})
    flows.runs.fork(actor, origin, edited)
    flows.drive()
    assert flows.done == [("c", {"x": "edited"})]
    flows.assert_counted()


def test_a_fork_names_single_items_of_a_map(flows: Flows) -> None:
    origin = flows.run(MAP, ten_fold).id
    counts(flows)
    with pytest.raises(InvalidInputError, match="has no item 1000: it has"):
        flows.runs.fork(flows.core.actor, origin, ForkRequest(step="each", items=[3, 1000]))
    request = ForkRequest(step="each", items=[3, 5])
    forked = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(lambda name, given: "new" if name == "each" else given)
    assert flows.ran(forked).status is RunStatus.COMPLETED
    expected: list[object] = [10 * n for n in NUMBERS]
    expected[3] = expected[5] = "new"
    assert flows.done[-1] == ("all", {"all": expected})
    assert counts(flows) == Counter({"each": 2, "all": 1})


@pytest.mark.parametrize(
    "request_",
    [
        ForkRequest(step="nope"),
        ForkRequest(step="a", items=[1]),
        ForkRequest(step="a", results={"nope": 1}),
    ],
)
def test_a_fork_of_what_there_is_not_is_refused(flows: Flows, request_: ForkRequest) -> None:
    origin = flows.run(CHAIN, input={"x": "integer"}, given={"x": 1}).id
    with pytest.raises(InvalidInputError):
        flows.runs.fork(flows.core.actor, origin, request_)


def nested(flows: Flows, levels: int) -> str:
    """Define workflows that each run the one below in a map of two; return the top's name."""
    flows.define("level0", {"leaf": {"task": "leaf"}}, returns="${{ steps.leaf.result }}")
    for level in range(1, levels + 1):
        steps = {
            "below": {"workflow": f"level{level - 1}", "map": "[1, 2]"},
            "tail": {"task": f"tail{level}", "needs": ["below"]},
        }
        flows.define(f"level{level}", steps, returns="${{ steps.below.results }}")
    return f"level{levels}"


def test_nested_maps_run_every_tail_once(flows: Flows) -> None:
    top = flows.workflows.get(flows.core.actor, nested(flows, 3)).id
    run_id = flows.start(top)
    flows.drive(lambda name, _given: name)
    ran = flows.ran(run_id)
    assert ran.status is RunStatus.COMPLETED
    assert ran.result == [[["leaf"] * 2] * 2] * 2
    assert counts(flows) == Counter({"leaf": 8, "tail1": 4, "tail2": 2, "tail3": 1})
    flows.assert_counted()


def test_a_failure_deep_below_reaches_the_failure_step_once(flows: Flows) -> None:
    nested(flows, 2)
    top = flows.define(
        "top",
        {
            "sub": {"workflow": "level2"},
            "oops": {"task": "oops", "run": "failure"},
        },
    )
    run_id = flows.start(top)
    flows.drive(lambda name, _given: FAILS if name == "leaf" else name)
    assert flows.ran(run_id).status is RunStatus.FAILED
    assert [name for name, _ in flows.done].count("oops") == 1
    flows.assert_counted()


def test_a_cancellation_reaches_all_generations(flows: Flows) -> None:
    top = flows.workflows.get(flows.core.actor, nested(flows, 3)).id
    run_id = flows.start(top)
    claim = flows.take()
    assert claim is not None
    flows.runs.cancel(flows.core.actor, run_id)
    flows.end(claim)
    flows.keep()
    assert flows.ran(run_id).status is RunStatus.CANCELLED
    todo = [run_id]
    while todo:
        for child in flows.children(todo.pop()):
            assert child.status is RunStatus.CANCELLED
            todo.append(child.id)
    flows.assert_counted()


def test_a_sub_workflow_that_ends_at_once_does_not_freeze_its_parent(flows: Flows) -> None:
    flows.define("empty", {"none": {"task": "none", "map": "[]"}})
    ran = flows.run(
        {"sub": {"workflow": "empty", "map": "[1, 2, 3]"}, "b": {"task": "b", "needs": ["sub"]}}
    )
    assert ran.status is RunStatus.COMPLETED
    assert [name for name, _ in flows.done] == ["b"]
    flows.assert_counted()


def test_workflows_that_run_too_deep_fail(flows: Flows) -> None:
    flows.define("level0", {"leaf": {"task": "leaf"}})
    for level in range(1, 9):
        flows.define(f"level{level}", {"below": {"workflow": f"level{level - 1}"}})
    top = flows.workflows.get(flows.core.actor, "level8").id
    run_id = flows.start(top)
    flows.keep()
    ran = flows.ran(run_id)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "invalid_input")
    assert flows.done == []
    flows.assert_counted()


def test_a_step_is_repeated_until_its_condition_holds_or_the_rounds_are_over(flows: Flows) -> None:
    scores = iter([3, 5, 9])
    ran = flows.run(
        {
            "grade": {"task": "grade", "repeat": {"until": "result >= 8", "max": 5}},
            "use": {"task": "use", "with": {"x": "${{ steps.grade.result }}"}},
        },
        lambda name, given: next(scores) if name == "grade" else given,
    )
    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["grade"].round, flows.done[-1]) == (3, ("use", {"x": 9}))
    scores = iter([1, 2])
    ran = flows.run(
        {"grade": {"task": "grade", "repeat": {"until": "result >= 8", "max": 2}}},
        lambda _name, _given: next(scores),
    )
    assert (ran.status, ran.steps["grade"].round) == (RunStatus.COMPLETED, 2)
    flows.assert_counted()


def test_a_round_sees_its_number_and_the_result_of_the_one_before(flows: Flows) -> None:
    ran = flows.run(
        {
            "draft": {
                "task": "draft",
                "with": {"round": "${{ index }}", "before": "${{ result }}"},
                "repeat": {"until": "index >= 2 && result.round == index", "max": 5},
            }
        },
        lambda name, given: {"round": given["round"]},
        returns="${{ steps.draft.result.round }}",
    )

    assert (ran.status, ran.result) == (RunStatus.COMPLETED, 2)
    assert [given for _, given in flows.done] == [
        {"round": 0, "before": None},
        {"round": 1, "before": {"round": 0}},
        {"round": 2, "before": {"round": 1}},
    ]


INNER = {
    "first": {"task": "first", "with": {"n": "${{ input.n }}"}},
    "leaf": {
        "task": "leaf", "map": "[0, 1, 2]", "with": {"n": "${{ steps.first.result + item }}"},
    },
}  # fmt: skip
MIDDLE = {
    "below": {"workflow": "inner", "map": "[0, 10]", "with": {"n": "${{ input.n + item }}"}},
    "tail": {"task": "tail", "needs": ["below"]},
}
OUTER = {
    "top": {"workflow": "middle", "map": "[0, 100]", "with": {"n": "${{ item }}"}},
    "all": {"task": "all", "with": {"all": "${{ steps.top.results }}"}},
}


def failed_below(flows: Flows) -> tuple[UUID, Counter[str]]:
    """Run maps in workflows in maps, two levels deep, of which the last leaf fails."""
    number: JsonObject = {"n": "integer"}
    flows.define("inner", INNER, input=number, returns="${{ steps.leaf.results }}")
    flows.define("middle", MIDDLE, input=number, returns="${{ steps.below.results }}")
    run_id = flows.start(flows.define("outer", OUTER))
    flows.drive(lambda name, given: FAILS if given.get("n") == 112 else given.get("n", given))
    assert flows.ran(run_id).status is RunStatus.FAILED
    return run_id, counts(flows)


EXPECTED = [[[n + m + x for x in range(3)] for m in (0, 10)] for n in (0, 100)]


@pytest.mark.failure("W24")
def test_a_retry_goes_on_inside_the_workflows_below(flows: Flows) -> None:
    origin, before = failed_below(flows)
    assert (before["first"], before["leaf"], before["tail"]) == (4, 12, 1)

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive(lambda _name, given: given.get("n", given))

    assert flows.ran(again).status is RunStatus.COMPLETED
    assert flows.done[-1] == ("all", {"all": EXPECTED})
    assert counts(flows) == Counter(leaf=1, tail=1, all=1)
    flows.assert_counted()


def test_a_workflow_that_has_changed_is_not_gone_on_with(flows: Flows) -> None:
    origin, _ = failed_below(flows)
    fields = {"steps": INNER, "input": {"n": "integer"}, "returns": "${{ steps.leaf.results }}"}
    changed = WorkflowSpec.model_validate({**fields, "priority": "high"})
    flows.workflows.change(flows.core.actor, "inner", spec=changed)

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive(lambda _name, given: given.get("n", given))

    assert flows.ran(again).status is RunStatus.COMPLETED
    assert counts(flows) == Counter(first=1, leaf=3, tail=1, all=1)


def test_a_fork_runs_the_workflows_of_its_step_from_their_beginning(flows: Flows) -> None:
    origin, _ = failed_below(flows)
    forked = flows.runs.fork(flows.core.actor, origin, ForkRequest(step="top", items=[1])).run_id
    flows.drive(lambda _name, given: given.get("n", given))
    assert flows.ran(forked).status is RunStatus.COMPLETED
    assert counts(flows) == Counter(first=2, leaf=6, tail=1, all=1)
    flows.assert_counted()
