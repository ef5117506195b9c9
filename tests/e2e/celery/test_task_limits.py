"""Limits by key with real workers."""

from itertools import pairwise

import pytest

from celeriac.domain.executions.states import Status
from celeriac.domain.limits import ConcurrencyLimit
from tests.support.fleet import Fleet
from tests.support.programs import Program


@pytest.mark.requirement("F13")
def test_executions_with_one_key_run_one_after_the_other_in_their_order(
    fleet: Fleet, worker: Program
) -> None:
    task = fleet.task("nap", concurrency=[ConcurrencyLimit(key="'one'", max=1)])
    ids = [fleet.submit(task, seconds=0.05) for _ in range(6)]
    ended = fleet.wait_terminal(ids)
    assert {each.status for each in ended} == {Status.COMPLETED}
    spans = [(each.started_at, each.completed_at) for each in ended]
    for (_, before), (after, _) in pairwise(spans):
        assert before is not None
        assert after is not None
        assert before <= after
