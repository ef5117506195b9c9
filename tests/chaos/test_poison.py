"""An agent that kills its worker every time comes to an end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.programs import Program

pytestmark = pytest.mark.requirement("A9", "B13")

CRASHES = 3


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_it_fails_as_worker_lost_after_the_cap(fleet: Fleet, pool: str) -> None:
    fleet.beat()
    worker = fleet.worker(pool=pool, slots=2)
    poison = fleet.submit(fleet.task("crash", max_crashes=CRASHES), diary=str(fleet.diary))
    with restarted(worker):
        failed = fleet.wait_terminal([poison], within=60)[0]
    assert (failed.status, failed.error_code) == (Status.FAILED, "worker_lost")
    assert (failed.attempt, failed.crash_count, failed.retry_count) == (CRASHES, CRASHES, 0)
    assert failed.error_details is not None
    assert failed.error_details["attempt"] == CRASHES
    assert failed.worker_hostname is not None
    assert failed.worker_hostname.startswith("w1@fleet/")
    assert len(fleet.diary_lines()) == CRASHES, "it was started more often than it may crash"


def test_others_survive_it(fleet: Fleet) -> None:
    """What waits beside it in the queue is done, by prefork's other children."""
    fleet.beat()
    fleet.worker(pool="prefork", slots=2)
    poison = fleet.submit(fleet.task("crash", max_crashes=2), diary=str(fleet.diary))
    nap = fleet.task("nap")
    others = [fleet.submit(nap, seconds=0.1) for _ in range(20)]
    done = fleet.wait_terminal([poison, *others], within=60)
    assert [each.status for each in done] == [Status.FAILED, *[Status.COMPLETED] * 20]


@contextmanager
def restarted(worker: Program) -> Iterator[None]:
    """Start the worker again whenever it has ended, as a service manager does."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            if worker.exit_code is not None:
                worker.restart()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
