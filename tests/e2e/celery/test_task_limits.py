"""Limits by key with real workers."""

from itertools import pairwise

import pytest

from celeriac.domain.executions.states import Status
from celeriac.domain.limits import ConcurrencyLimit
from tests.support.fleet import Fleet
from tests.support.programs import Program


@pytest.mark.requirement("F13")
@pytest.mark.failure("Q3")
def test_with_one_slot_each_end_lets_the_next_one_start(fleet: Fleet, worker: Program) -> None:
    """They run one at a time in their order, by the rows: whether one completes, fails, is stopped.

    The clock is the database's, from `completed_at` of one to `started_at` of the next.
    """
    one = [ConcurrencyLimit(key="'one'", max=1)]
    completes, fails, runs_on = (
        fleet.task(function, concurrency=one) for function in ("nap", "refuse", "hold")
    )
    notes = {"diary": str(fleet.notes / "one at a time")}
    ids, to_cancel = [], []
    for _ in range(3):
        to_cancel.append(fleet.submit(runs_on, gate="/never", **notes))
        ids += [to_cancel[-1], fleet.submit(completes, seconds=0.05), fleet.submit(fails, **notes)]
    ids.append(fleet.submit(completes, seconds=0))

    for each in to_cancel:
        fleet.wait_status(each, Status.RUNNING)
        fleet.container.cancel(fleet.actor, [each])
    ended = fleet.wait_terminal(ids)

    ends = [Status.CANCELLED, Status.COMPLETED, Status.FAILED]
    assert [each.status for each in ended] == [*ends * 3, Status.COMPLETED]
    for before, after in pairwise(ended):
        assert before.completed_at is not None
        assert after.started_at is not None
        assert before.completed_at <= after.started_at, "two had the slot at once"
