"""The ends of a run's items, as those who follow the run read them."""

from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db.workflows import item_ends
from celeriac.db.workflows import items as item_rows
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.workflows.records import EndPlace, ItemEnd
from celeriac.domain.workflows.states import StepStatus
from tests.support.rows_read import rows_read
from tests.support.waiting import wait_until
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("A13")

_START = EndPlace()
_MAP: dict[str, dict[str, Any]] = {
    "each": {"task": "work", "map": "[0, 1, 2]", "with": {"number": "${{ item }}"}}
}


def settled(flows: Flows, run_id: UUID, count: int) -> list[ItemEnd]:
    """Return so many ends, when the transactions of others allow: the server has some itself."""
    read = partial(flows.runs.ends, run_id, after=_START, limit=100, whole=False)
    wait_until(lambda: len(read()) == count, "the ends are settled")
    return read()


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
    assert [end.step for end in settled(flows, run_id, 2)] == ["a", "b"]


def test_the_end_of_a_run_below_names_that_run(flows: Flows) -> None:
    flows.define("below", {"one": {"task": "work"}})
    above = flows.start(flows.define("above", {"sub": {"workflow": "below", "map": "[1, 2]"}}))
    flows.drive()
    ends = flows.runs.ends(above, after=_START, limit=100, whole=True)
    below = {run.parent_item_no: run.id for run in flows.children(above)}
    assert len(below) == 2
    assert {end.place.item_no: end.child_run_id for end in ends} == below
    assert {end.execution_id for end in ends} == {None}
    for run_id in below.values():
        (end,) = flows.runs.ends(run_id, after=_START, limit=100, whole=True)
        assert (end.step, end.child_run_id) == ("one", None)
        assert end.execution_id is not None
    flows.assert_counted()


def test_an_item_that_cannot_begin_ends_too(flows: Flows) -> None:
    given = {"task": "work", "map": "[1, 0]", "with": {"number": "${{ 1 / item }}"}}
    run_id = flows.start(flows.define("w", {"each": {**given, "on_failure": "continue"}}))
    flows.drive()
    ends = flows.runs.ends(run_id, after=_START, limit=100, whole=True)
    assert sorted((end.place.item_no, end.status, end.execution_id is None) for end in ends) == [
        (0, "completed", False), (1, "failed", True),
    ]  # fmt: skip


def test_an_execution_outside_of_workflows_writes_no_end(flows: Flows) -> None:
    task = flows.add_task("work")
    flows.core.submit(flows.core.actor, SubmitRequest(task_id=task))
    assert flows.drive() == 1
    with flows.core.database.autocommit() as connection:
        assert connection.execute(text("SELECT count(*) FROM item_ends")).scalar_one() == 0


def test_a_transaction_of_others_delays_ends_until_the_run_ends(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", _MAP))
    with flows.core.database.transaction() as other:
        other.execute(text("SELECT pg_current_xact_id()"))
        flows.drive()
        assert flows.runs.ends(run_id, after=_START, limit=100, whole=False) == []
        whole = flows.runs.ends(run_id, after=_START, limit=100, whole=True)
        assert sorted(end.place.item_no for end in whole) == [0, 1, 2]
    assert settled(flows, run_id, 3) == whole


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
