"""Time limits hold in every pool, for whatever the agent does."""

import os
from pathlib import Path

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B7")

POOLS = {"threads": 4, "prefork": 2, "solo": 1}
ONCE = {"max_retries": 0}


@pytest.mark.parametrize("pool", POOLS)
def test_they_hold_in_every_pool(fleet: Fleet, pool: str) -> None:
    """The soft limit ends what heeds it; the hard one kills a function with all its processes."""
    fleet.worker(pool=pool, slots=POOLS[pool])
    soft = {"soft_seconds": 0.5, "hard_seconds": 30.0}
    heeding = [
        fleet.submit(
            fleet.task(function, retry=ONCE, limits=soft), diary=str(fleet.diary), seconds=60
        )
        for function in ("plain_nap", "nap")
    ]
    # more than its processes need to start on a busy machine
    hard = {"soft_seconds": 7.0, "hard_seconds": 8.0}
    task = fleet.task("plain_family", retry=ONCE, limits=hard)
    pids_file = fleet.notes / "pids"
    deaf = fleet.submit(task, diary=str(fleet.diary), pids=str(pids_file))
    wait_until(pids_file.exists, "its processes run")
    pids = [int(pid) for pid in pids_file.read_text().split()]
    failed = fleet.wait_terminal([*heeding, deaf])
    assert {each.status for each in failed} == {Status.FAILED}
    assert [each.error_code for each in failed] == [
        "soft_time_limit", "soft_time_limit", "hard_time_limit",
    ]  # fmt: skip
    wait_until(lambda: not [pid for pid in pids if _runs(pid)], f"none of {pids} is left")


@pytest.mark.parametrize("function", ["block_loop", "ignore_cancel"])
def test_a_coroutine_that_won_t_end_is_left_behind(fleet: Fleet, function: str) -> None:
    """It can't be killed; its execution ends all the same, and the worker goes on."""
    fleet.worker()
    task = fleet.task(function, retry=ONCE, limits={"soft_seconds": 0.5, "hard_seconds": 1.0})
    how = {"seconds": 60} if function == "block_loop" else {"gate": str(fleet.gate)}
    execution = fleet.submit(task, diary=str(fleet.diary), **how)
    failed = fleet.wait_terminal([execution])[0]
    assert (failed.status, failed.error_code) == (Status.FAILED, "hard_time_limit")
    assert failed.crash_count == 0, "its lease was lost while it blocked the loop"
    after = fleet.submit(fleet.task("nap"), seconds=0)
    assert fleet.wait_terminal([after])[0].status is Status.COMPLETED


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return pid != os.getpid() and stat.rsplit(")", 1)[1].split()[0] != "Z"
