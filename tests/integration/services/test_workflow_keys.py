"""Items of a map that have the same key run once, over chunks, retries and forks."""

from collections import Counter
from typing import Any

import pytest

from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows import chunks
from celeriac.services.workflows.again import ForkRequest
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E1")

KEYED = {
    "each": {
        "task": "each", "map": "input.list", "key": "item.key", "with": {"x": "${{ item.x }}"},
        "on_failure": "continue",
    },
    "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}, "run": "always"},
}  # fmt: skip
GIVEN: dict[str, Any] = {"input": {"list": "array"}}
CANNOT: JsonObject = {"key": "a"}
"""An item that can't begin: its expression has no value."""


def items(*keys: str) -> list[JsonObject]:
    return [{"key": key, "x": f"{key}{number}"} for number, key in enumerate(keys)]


def ran(flows: Flows) -> list[object]:
    found = [given["x"] for name, given in flows.done if name == "each"]
    flows.done.clear()
    return found


@pytest.fixture(params=[3, 1_000], ids=["chunks-of-3", "one-chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_the_first_item_that_can_begin_runs_for_its_key(flows: Flows) -> None:
    given = [CANNOT, *items("a", "b", "a", "c", "a", "b", "a")]
    run_id = flows.start(flows.define("w", KEYED, **GIVEN), list=given)
    flows.drive()
    assert sorted(map(str, ran(flows))) == ["a0", "b1", "c3"]
    assert flows.ran(run_id).steps["each"].failed == 1
    flows.assert_counted()


@pytest.mark.usefixtures("chunk")
def test_a_fork_of_an_item_runs_its_key_again_for_all_that_have_it(flows: Flows) -> None:
    given = items("a", "b", "c", "b", "d", "b", "e")
    origin = flows.start(flows.define("w", KEYED, **GIVEN), list=given)
    flows.drive(lambda name, given: given["x"] if name == "each" else given)
    assert Counter(ran(flows)) == Counter({"a0": 1, "b1": 1, "c2": 1, "d4": 1, "e6": 1})

    request = ForkRequest(step="each", items=[5])
    forked = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(lambda name, given: "new" if name == "each" else given)

    assert flows.ran(forked).status is RunStatus.COMPLETED
    assert flows.done[-1] == ("all", {"all": ["a0", "new", "c2", "new", "d4", "new", "e6"]})
    assert ran(flows) == ["b1"]
    flows.assert_counted()


@pytest.mark.usefixtures("chunk")
def test_a_retry_does_not_run_a_key_again_that_another_item_has_completed(flows: Flows) -> None:
    """The first item of the key could not begin, then the third one of it ran."""
    given = [CANNOT, *items("b", "c", "a", "d")]
    each = {**KEYED["each"], "max_failures": 1, "on_failure": "fail"}
    origin = flows.start(flows.define("w", {**KEYED, "each": each}, **GIVEN), list=given)
    flows.drive(lambda _name, given: FAILS if given.get("x") == "d3" else given)
    assert flows.ran(origin).status is RunStatus.FAILED
    assert ran(flows) == ["b0", "c1", "a2", "d3"]

    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive()

    assert ran(flows) == ["d3"]
    assert flows.ran(again).steps["each"].completed == 5
    flows.assert_counted()
