"""Items of a map run again with another input; the others keep what they have."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.workflows.records import RunFilter
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.again import ForkRequest
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")

STEPS: dict[str, Any] = {
    "begin": {"task": "begin"},
    "each": {
        "task": "each", "map": "input.leads", "needs": ["begin"],
        "with": {"lead": "${{ item }}", "by": "${{ input.by }}"},
    },
    "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}},
}  # fmt: skip
INPUT: JsonObject = {"leads": "array", "by": "integer"}


def times(name: str, given: JsonObject) -> object:
    if name != "each":
        return given
    lead: Any = given["lead"]
    return FAILS if lead < 0 else lead * given["by"]


def ran(flows: Flows, leads: list[int], *, by: int = 10, **steps: JsonObject) -> UUID:
    """Run a workflow that maps over `leads`; `steps` differ from STEPS."""
    spec = STEPS | {name: {**STEPS[name], **step} for name, step in steps.items()}
    workflow = flows.define("w", spec, input=INPUT, returns="${{ steps.each.results }}")
    run_id = flows.start(workflow, leads=leads, by=by)
    flows.drive(times)
    flows.done.clear()
    return run_id


def forked(flows: Flows, origin: UUID, items: list[int], leads: object, *, by: int = 10) -> UUID:
    """Fork items of `each` with another input, and run all."""
    given: JsonObject = {"leads": leads, "by": by}
    request = ForkRequest(step="each", items=items, input=given)
    run_id = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(times)
    flows.assert_counted()
    return run_id


def executions(flows: Flows, run_id: UUID) -> list[object]:
    return [each.execution_id for each in flows.ran(run_id).items("each")]


def test_named_items_run_with_the_other_input_and_others_keep_their_results(flows: Flows) -> None:
    origin = ran(flows, [1, -2, 3], each={"on_failure": "continue"})
    assert flows.ran(origin).result == [10, None, 30]

    run_id = forked(flows, origin, [1], [1, 2, 3], by=100)

    assert (flows.ran(run_id).status, flows.ran(run_id).result) == (
        RunStatus.COMPLETED, [10, 200, 30],
    )  # fmt: skip
    before, now = executions(flows, origin), executions(flows, run_id)
    assert [one == other for one, other in zip(before, now, strict=True)] == [True, False, True]
    assert Counter(name for name, _ in flows.done) == Counter(each=1, all=1)


def test_a_retry_of_such_a_fork_runs_only_what_has_failed_in_it(flows: Flows) -> None:
    origin = ran(flows, [1, 2, 3, 4])
    fork = forked(flows, origin, [1, 3], [1, 22, 3, -4])
    assert flows.ran(fork).status is RunStatus.FAILED
    flows.done.clear()

    retry = flows.runs.retry(flows.core.actor, fork).run_id
    flows.drive(lambda name, given: 44 if name == "each" else given)

    assert flows.ran(retry).result == [10, 220, 30, 44]
    assert Counter(name for name, _ in flows.done)["each"] == 1


def test_items_without_success_and_new_ones_run_with_the_others(flows: Flows) -> None:
    origin = ran(flows, [1, -2, 3], each={"on_failure": "continue"})

    run_id = forked(flows, origin, [0], [11, 22, 3, 4])

    assert flows.ran(run_id).result == [110, 220, 30, 40]
    assert Counter(name for name, _ in flows.done)["each"] == 3


def test_the_list_may_come_from_a_step_that_is_given_another_result(flows: Flows) -> None:
    steps: JsonObject = {
        "list": {"task": "list"},
        "each": {"task": "pick", "map": "steps.list.result", "with": {"n": "${{ item }}"}},
    }

    def work(name: str, given: JsonObject) -> object:
        return [1, 2, 3] if name == "list" else given["n"]

    origin = flows.start(flows.define("w", steps, returns="${{ steps.each.results }}"))
    flows.drive(work)
    flows.done.clear()
    request = ForkRequest(step="each", items=[2], results={"list": [1, 2, 33]})

    run_id = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(work)

    assert flows.ran(run_id).result == [1, 2, 33]
    assert [name for name, _ in flows.done] == ["pick"]


def test_the_run_of_a_named_item_begins_anew_with_its_other_input(flows: Flows) -> None:
    inner = {
        "a": {"task": "a", "with": {"n": "${{ input.n }}"}},
        "b": {"task": "b", "with": {"n": "${{ steps.a.result }}"}},
    }
    flows.define("inner", inner, input={"n": "integer"}, returns="${{ steps.b.result }}")
    steps = {"q": {"workflow": "inner", "map": "input.list", "with": {"n": "${{ item }}"}}}
    workflow = flows.define(
        "outer", steps, input={"list": "array"}, returns="${{ steps.q.results }}"
    )
    origin = flows.start(workflow, list=[1, 2])
    flows.drive(lambda _, given: given["n"])
    flows.done.clear()
    request = ForkRequest(step="q", items=[1], input={"list": [1, 22]})

    run_id = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(lambda _, given: given["n"])

    assert flows.ran(run_id).result == [1, 22]
    assert sorted(name for name, _ in flows.done) == ["a", "b"]


def test_a_named_item_leaves_its_key_or_joins_another(flows: Flows) -> None:
    """Those that had its key run again, as in a fork with the same input."""
    origin = ran(flows, [1, 1, 2, 3], each={"key": "item"})

    assert flows.ran(forked(flows, origin, [0], [7, 1, 2, 3])).result == [70, 10, 20, 30]
    made = Counter(name for name, _ in flows.done)
    assert made["each"] == 2
    flows.done.clear()

    assert flows.ran(forked(flows, origin, [3], [1, 1, 2, 2], by=1)).result == [10, 10, 20, 20]
    assert Counter(name for name, _ in flows.done)["each"] == 0


@pytest.mark.parametrize(
    ("leads", "words"),
    [
        ([9, 2, 3], "item 0, which keeps its result, differs: name it, too"),
        ([1, 2], "item 2, which keeps its result, is not in the list then"),
        ([1], "it has 1 item then"),
        ([], "its condition does not hold then"),
    ],
)
def test_items_that_keep_their_results_are_the_same(
    flows: Flows, leads: object, words: str
) -> None:
    origin = ran(flows, [1, 5, 3], each={"when": "size(input.leads) > 0"})
    with pytest.raises(InvalidInputError, match=words) as refused:
        forked(flows, origin, [1], leads)

    assert refused.value.field == "items"
    assert len(flows.runs.find(flows.core.actor, RunFilter()).items) == 1, "nothing is stored"


def test_an_input_without_a_list_is_refused(flows: Flows) -> None:
    steps = {"each": {"task": "pick", "map": "input.given.list", "with": {"n": "${{ item }}"}}}
    workflow = flows.define("w", steps, input={"given": "object"})
    origin = flows.start(workflow, given={"list": [1, 2]})
    flows.drive(lambda _, given: given)
    for given in ({}, {"list": 7}):
        request = ForkRequest(step="each", items=[1], input={"given": given})
        with pytest.raises(InvalidInputError, match=r"has no value then: .*list") as refused:
            flows.runs.fork(flows.core.actor, origin, request)
        assert refused.value.field == "items"
