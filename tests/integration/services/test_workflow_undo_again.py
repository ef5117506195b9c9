"""What was undone runs again in a retry; a failed compensation can be retried by itself."""

from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows import undo_items
from celeriac.services.workflows.again import ForkRequest
from tests.support.undo import (
    MAP,
    chain,
    failing,
    names,
    of_map,
    undone,
)
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")


def compensation_failed(flows: Flows, steps: dict[str, Any], *bad: str, **fields: Any) -> UUID:
    run_id = flows.run(steps, failing(*bad), **fields).id
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATION_FAILED
    flows.done.clear()
    return run_id


def test_a_retried_compensation_runs_only_the_failed_undo_tasks(flows: Flows) -> None:
    actor = flows.core.actor
    origin = compensation_failed(flows, chain("a", "b", "c", "d"), "d", "undo-a", "undo-c")

    again = flows.runs.retry(actor, origin, compensation=True).run_id
    assert flows.ran(again).status is RunStatus.COMPENSATING
    flows.drive(failing("undo-a"))

    ran = flows.ran(again)
    assert undone(flows) == names(flows) == ["undo-c", "undo-a"]
    assert (ran.status, ran.run.origin_id, ran.run.error_step) == (RunStatus.FAILED, origin, "d")
    assert ran.run.compensation is Compensation.COMPENSATION_FAILED
    expected = {"a.undo": "failed", "b.undo": "completed", "c.undo": "completed"}
    assert {k: v for k, v in ran.statuses.items() if k.endswith(".undo")} == expected
    assert flows.runs.get(actor, origin).compensation_run_id == again

    with pytest.raises(ConflictError, match=str(again)):
        flows.runs.retry(actor, origin, compensation=True)
    third = flows.runs.retry(actor, again, compensation=True).run_id
    flows.drive(failing())
    assert flows.ran(third).run.compensation is Compensation.COMPENSATED
    assert names(flows) == ["undo-c", "undo-a", "undo-a"]
    assert flows.done[-1] == ("undo-a", {"input": {}, "result": "a", "error": None})
    with pytest.raises(ConflictError, match="No undo task of the run has failed"):
        flows.runs.retry(actor, third, compensation=True)
    flows.assert_counted()


def test_a_cancelled_run_whose_compensation_is_retried_stays_cancelled(flows: Flows) -> None:
    run_id = flows.start(flows.define("w", chain("a", "b")))
    flows.drive(most=1)
    flows.runs.cancel(flows.core.actor, run_id)
    flows.drive(failing("undo-a"))
    again = flows.runs.retry(flows.core.actor, run_id, compensation=True).run_id
    flows.drive()
    ran = flows.ran(again)
    assert (ran.status, ran.run.compensation) == (RunStatus.CANCELLED, Compensation.COMPENSATED)


def test_a_retried_compensation_of_a_map_undoes_only_the_items_that_were_not(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_items, "CHUNK", 2)

    def work(name: str, given: JsonObject) -> object:
        bad = {0, 3, 5}
        return (
            FAILS if name == "undo-each" and given["input"]["x"] in bad else of_map()(name, given)
        )

    origin = flows.run(MAP, work, input={"list": "array"}, given={"list": list(range(8))}).id
    flows.done.clear()
    again = flows.runs.retry(flows.core.actor, origin, compensation=True).run_id
    flows.drive()
    ran = flows.ran(again)
    assert sorted(given["input"]["x"] for _, given in flows.done) == [0, 3, 5]
    step = ran.steps["each.undo"]
    assert (step.width, step.completed, step.failed) == (8, 8, 0)
    assert ran.run.compensation is Compensation.COMPENSATED
    flows.assert_counted()


def test_a_compensation_of_which_results_are_deleted_cannot_be_retried(flows: Flows) -> None:
    origin = compensation_failed(flows, chain("a", "b"), "b", "undo-a")
    (item,) = flows.ran(origin).items("a")
    flows.core.execute("DELETE FROM executions WHERE id = :id", id=item.execution_id)
    with pytest.raises(ConflictError, match="are deleted"):
        flows.runs.retry(flows.core.actor, origin, compensation=True)
    assert flows.runs.get(flows.core.actor, origin).compensation_run_id is None


def test_a_retry_runs_again_what_was_undone(flows: Flows) -> None:
    steps = {
        "free": {"task": "free"},
        **chain("a", "b"),
        "after": {"task": "after", "needs": ["a"]},
    }
    origin = flows.run(steps, failing("b"))
    assert origin.run.compensation is Compensation.COMPENSATED
    assert undone(flows) == ["undo-a"]
    flows.done.clear()
    again = flows.runs.retry(flows.core.actor, origin.id).run_id
    flows.drive()
    assert flows.ran(again).status is RunStatus.COMPLETED
    assert sorted(names(flows)) == ["a", "after", "b"]
    flows.assert_counted()


def test_a_retry_runs_all_items_of_an_undone_map_again(flows: Flows) -> None:
    origin = flows.run(MAP, of_map(2), input={"list": "array"}, given={"list": [1, 2, 3]}).id
    flows.done.clear()
    with pytest.raises(InvalidInputError, match="undone"):
        flows.runs.fork(flows.core.actor, origin, ForkRequest(step="each", items=[1]))
    again = flows.runs.retry(flows.core.actor, origin).run_id
    flows.drive()
    assert flows.ran(again).status is RunStatus.COMPLETED
    assert names(flows) == ["each", "each", "each", "end"]
    flows.assert_counted()


def test_steps_are_not_retried_while_undo_tasks_of_theirs_have_failed(flows: Flows) -> None:
    actor = flows.core.actor
    origin = compensation_failed(flows, chain("a", "b"), "b", "undo-a")
    with pytest.raises(ConflictError, match="Retry its compensation first"):
        flows.runs.retry(actor, origin)
    by = flows.runs.retry(actor, origin, compensation=True).run_id
    flows.drive()
    with pytest.raises(ConflictError, match=str(by)):
        flows.runs.retry(actor, origin)
    flows.done.clear()
    again = flows.runs.retry(actor, by).run_id
    flows.drive()
    assert flows.ran(again).status is RunStatus.COMPLETED
    assert names(flows) == ["a", "b"]
    flows.assert_counted()


def test_a_fork_does_not_undo_what_its_origin_has_done(flows: Flows) -> None:
    origin = flows.run(chain("a", "b", "c")).id
    flows.done.clear()
    request = ForkRequest(step="b", results={})
    forked = flows.runs.fork(flows.core.actor, origin, request).run_id
    flows.drive(failing("c"))
    assert names(flows) == ["b", "c", "undo-b"]
    assert flows.ran(forked).run.compensation is Compensation.COMPENSATED
    flows.done.clear()
    given = ForkRequest(step="c", results={"b": "given"})
    forked = flows.runs.fork(flows.core.actor, origin, given).run_id
    flows.drive(failing("c"))
    assert names(flows) == ["c"]
    assert flows.ran(forked).run.compensation is None
    flows.assert_counted()


def test_a_fork_does_not_undo_work_of_its_origin_that_is_deleted_meanwhile(flows: Flows) -> None:
    origin = flows.run(chain("a", "b", "c")).id
    forked = flows.runs.fork(flows.core.actor, origin, ForkRequest(step="b", results={})).run_id
    (item,) = flows.ran(origin).items("a")
    flows.core.execute("DELETE FROM executions WHERE id = :id", id=item.execution_id)
    flows.done.clear()
    flows.drive(failing("c"))
    ran = flows.ran(forked)
    assert names(flows) == ["b", "c", "undo-b"]
    assert ran.run.compensation is Compensation.COMPENSATED
    assert "a.undo" not in ran.steps
