"""The ends of a run's items, as those who follow the run read them."""

from functools import partial
from typing import Any

import pytest

from celeriac.db.workflows import item_ends
from celeriac.db.workflows import items as item_rows
from celeriac.domain.workflows.records import EndPlace
from celeriac.domain.workflows.states import StepStatus
from tests.support.rows_read import rows_read
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("A13")

_START = EndPlace()
_MAP: dict[str, dict[str, Any]] = {
    "each": {"task": "work", "map": "[0, 1, 2]", "with": {"number": "${{ item }}"}}
}


def test_each_end_is_there_once_with_its_execution(flows: Flows) -> None:
    run_id = flows.start(
        flows.define("w", {"each": {**_MAP["each"], "retry": 0, "on_failure": "continue"}})
    )
    flows.drive(lambda _name, given: FAILS if given.get("number") == 1 else None)
    found = flows.runs.ends(run_id, after=_START, limit=100, whole=True)
    assert sorted((end.step, end.place.item_no, end.status) for end in found) == [
        ("each", 0, "completed"), ("each", 1, "failed"), ("each", 2, "completed"),
    ]  # fmt: skip
    items = flows.runs.items(flows.core.actor, run_id, "each")
    assert {end.place.item_no: end.execution_id for end in found} == {
        each.item_no: each.execution_id for each in items.items
    }
    assert found == sorted(found, key=lambda end: end.place)
    for number, end in enumerate(found):
        rest = flows.runs.ends(run_id, after=end.place, limit=100, whole=True)
        assert rest == found[number + 1 :], "what follows a place is there without gap or repeat"


def test_items_with_one_key_have_one_end(flows: Flows) -> None:
    step = {**_MAP["each"], "map": "[1, 1, 2]", "key": "item", "retry": 0, "on_failure": "continue"}
    run_id = flows.start(flows.define("w", {"each": step}))
    assert flows.runs.ends(run_id, after=_START, limit=100, whole=True) == []
    flows.drive(lambda _name, given: FAILS if given["number"] == 1 else None)
    found = flows.runs.ends(run_id, after=_START, limit=100, whole=True)
    assert {end.place.item_no: end.status for end in found} == {0: "failed", 2: "completed"}


def test_an_end_that_is_committed_later_is_not_skipped(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", {"a": {"task": "work"}, "b": {"task": "work"}}))
    database = flows.core.database
    with database.transaction() as earlier:
        item_rows.count_down(earlier, run_id, 1, {0: StepStatus.COMPLETED})
        with database.transaction() as later:
            item_rows.count_down(later, run_id, 2, {0: StepStatus.COMPLETED})
        assert flows.runs.ends(run_id, after=_START, limit=100, whole=False) == []
    found = flows.runs.ends(run_id, after=_START, limit=100, whole=False)
    assert [end.step for end in found] == ["a", "b"]


def test_the_ends_of_a_run_are_found_by_their_place(flows: Flows) -> None:
    flows.core.execute(
        "INSERT INTO item_ends (run_id, ended_xid, step_no, item_no, status)"
        " SELECT gen_random_uuid(), n, 1, n, 'completed' FROM generate_series(1, 5000) n"
    )
    run_id = flows.start(flows.define("w", _MAP))
    flows.drive()
    plans = [
        plan
        for whole in (True, False)
        for plan in rows_read(
            flows.core.database,
            partial(item_ends.after, run_id=run_id, place=_START, limit=100, whole=whole),
            table="item_ends",
        )
    ]
    assert max(rows for _, rows in plans) <= 3, plans
