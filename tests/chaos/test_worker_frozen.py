"""A worker that is stopped past its lease and goes on later: what it writes then is refused."""

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")


def test_what_it_still_writes_is_refused(fleet: Fleet) -> None:
    fleet.beat()
    first = fleet.worker("w1")
    execution = fleet.submit(fleet.task("talk"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    first.freeze()
    fleet.lasting_worker("w2")
    wait_until(lambda: len(fleet.diary_lines()) == 2, "the other worker runs it")
    first.thaw()
    wait_until(lambda: first.logged("execution.lease_lost"), "the first worker learned of it")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt, done.crash_count) == (Status.COMPLETED, 2, 1)
    assert done.result["attempt"] == 2
    attempts = [event.attempt for event in fleet.events(execution)]
    assert attempts == sorted(attempts), "the first worker wrote after it had lost its lease"


def test_a_result_it_has_already_is_refused(fleet: Fleet) -> None:
    """The gate opens while it is frozen: it comes back, finishes at once and must not count."""
    fleet.beat()
    first = fleet.worker("w1")
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    first.freeze()
    fleet.open_gate()
    fleet.lasting_worker("w2")
    done = fleet.wait_terminal([execution])[0]
    first.thaw()
    wait_until(lambda: first.logged("execution.lease_lost"), "the first worker learned of it")
    fleet.assert_consistent()
    assert fleet.get(execution) == done, "a finished execution was changed"
    assert (done.status, done.attempt, done.result["attempt"]) == (Status.COMPLETED, 2, 2)


def test_alone_it_takes_up_its_own_execution_again(fleet: Fleet) -> None:
    """Then both attempts run in one process, and the earlier one must not disturb the later."""
    fleet.beat()
    worker = fleet.worker("w1")
    execution = fleet.submit(fleet.task("talk"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    worker.freeze()
    wait_until(lambda: fleet.get(execution).status is Status.QUEUED, "the keeper has rescued it")
    worker.thaw()
    wait_until(lambda: len(fleet.diary_lines()) == 2, "it runs again")
    wait_until(lambda: worker.logged("execution.lease_lost"), "the earlier attempt has ended")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt, done.crash_count) == (Status.COMPLETED, 2, 1)
