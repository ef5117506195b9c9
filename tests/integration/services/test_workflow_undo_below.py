"""Undo tasks that have failed in a workflow below stop retries, at any depth."""

from uuid import UUID

import pytest

from celeriac.domain.errors import ConflictError
from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.services.workflows.again import ForkRequest
from tests.support.undo import chain, failing, names
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("E3")


def lowest(flows: Flows, run_id: UUID) -> UUID:
    """Return the run at the bottom of a chain of runs."""
    while children := flows.children(run_id):
        (run_id,) = (child.id for child in children)
    return run_id


def failed_below(flows: Flows, depth: int) -> tuple[UUID, UUID]:
    """Run a workflow that many levels above one of which an undo task fails; return both."""
    flows.define("level0", chain("a", "b"))
    for level in range(1, depth + 1):
        first = f"before{level}"
        below = {"workflow": f"level{level - 1}", "needs": [first]}
        steps = {first: {"task": first}, "below": below}
        flows.define(f"level{level}", steps)
    run_id = flows.start(flows.workflows.get(flows.core.actor, f"level{depth}").id)
    flows.drive(failing("b", "undo-a"))
    assert flows.ran(run_id).status is RunStatus.FAILED
    bottom = lowest(flows, run_id)
    assert flows.ran(bottom).run.compensation is Compensation.COMPENSATION_FAILED
    flows.done.clear()
    return run_id, bottom


@pytest.mark.parametrize("depth", [1, 3])
def test_a_retry_waits_until_all_below_is_undone(flows: Flows, depth: int) -> None:
    actor = flows.core.actor
    origin, bottom = failed_below(flows, depth)
    with pytest.raises(ConflictError, match=f"Undo tasks of the run {bottom} have failed"):
        flows.runs.retry(actor, origin)

    undoing = flows.runs.retry(actor, bottom, compensation=True).run_id
    with pytest.raises(ConflictError, match=f"{undoing} is retrying undo tasks; wait"):
        flows.runs.retry(actor, origin)
    flows.drive(failing("undo-a"))
    with pytest.raises(ConflictError, match=f"Undo tasks of the run {undoing} have failed"):
        flows.runs.retry(actor, origin)
    flows.runs.retry(actor, undoing, compensation=True)
    flows.drive()
    assert names(flows) == ["undo-a", "undo-a"]
    flows.done.clear()

    again = flows.runs.retry(actor, origin).run_id
    flows.drive()
    assert flows.ran(again).status is RunStatus.COMPLETED
    assert names(flows) == ["a", "b"]
    flows.assert_counted()


def test_a_fork_runs_the_step_in_any_case_and_no_other_one(flows: Flows) -> None:
    actor = flows.core.actor
    flows.define("sub", chain("a", "b"))
    steps = {
        "free": {"task": "free"},
        "below": {"workflow": "sub", "with": {}},
    }
    origin = flows.start(flows.define("top", steps))
    flows.drive(failing("b", "undo-a"))
    (child,) = flows.children(origin)
    flows.done.clear()
    with pytest.raises(ConflictError, match=str(child.id)):
        flows.runs.fork(actor, origin, ForkRequest(step="free"))
    forked = flows.runs.fork(actor, origin, ForkRequest(step="below")).run_id
    flows.drive()
    assert flows.ran(forked).status is RunStatus.COMPLETED
    assert names(flows) == ["a", "b"]


def stopped_retry(flows: Flows, monkeypatch: pytest.MonkeyPatch, origin: UUID) -> UUID:
    """Retry a run, and cancel the new one before it makes an item."""
    proper = flows.advance._spawn

    def dies(*_: object) -> object:
        raise RuntimeError("killed")

    monkeypatch.setattr(flows.advance, "_spawn", dies)
    between = flows.runs.retry(flows.core.actor, origin).run_id
    monkeypatch.setattr(flows.advance, "_spawn", proper)
    flows.runs.cancel(flows.core.actor, between)
    flows.keep()
    assert flows.ran(between).status is RunStatus.CANCELLED
    assert not flows.children(between)
    return between


def test_a_retry_goes_on_below_where_an_earlier_one_did_not_begin(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run between was cancelled before it made the item: the run before it has it."""
    actor = flows.core.actor
    flows.define("sub", {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}})
    origin = flows.start(flows.define("top", {"below": {"workflow": "sub"}}))
    flows.drive(failing("b"))
    flows.done.clear()
    between = stopped_retry(flows, monkeypatch, origin)

    again = flows.runs.retry(actor, between).run_id
    flows.drive()

    assert flows.ran(again).status is RunStatus.COMPLETED
    assert names(flows) == ["b"]
    flows.assert_counted()


def test_what_was_not_undone_is_not_begun_after_retries_that_did_not_begin_it(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = flows.core.actor
    flows.define("sub", chain("a", "b"))
    origin = flows.start(flows.define("top", {"below": {"workflow": "sub"}}))
    flows.drive(failing("b", "undo-a"))
    flows.done.clear()
    (child,) = flows.children(origin)
    # as if an undo task had failed only after the retry was accepted
    flows.core.execute("UPDATE workflow_runs SET compensation = NULL WHERE id = :id", id=child.id)
    between = stopped_retry(flows, monkeypatch, origin)
    flows.core.execute(
        "UPDATE workflow_runs SET compensation = 'compensation_failed' WHERE id = :id", id=child.id
    )

    refused = flows.ran(flows.runs.retry(actor, between).run_id)
    assert refused.status is RunStatus.FAILED
    assert f"Undo tasks of the run {child.id} have failed" in str(refused.run.error_message)
    assert names(flows) == []

    flows.runs.retry(actor, child.id, compensation=True)
    flows.drive()
    again = flows.runs.retry(actor, refused.id).run_id
    flows.drive()
    assert flows.ran(again).status is RunStatus.COMPLETED
    assert names(flows) == ["undo-a", "a", "b"]
    flows.assert_counted()


def test_a_workflow_below_that_is_deleted_is_not_begun_anew(flows: Flows) -> None:
    flows.define("sub", {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}})
    origin = flows.start(flows.define("top", {"below": {"workflow": "sub"}}))
    flows.drive(failing("b"))
    flows.done.clear()
    (child,) = flows.children(origin)
    flows.core.execute("DELETE FROM item_ends WHERE child_run_id = :id", id=child.id)
    flows.core.execute("DELETE FROM workflow_runs WHERE id = :id", id=child.id)
    again = flows.ran(flows.runs.retry(flows.core.actor, origin).run_id)
    flows.drive()
    assert again.status is RunStatus.FAILED
    assert "deleted" in str(again.run.error_message)
    assert names(flows) == []
