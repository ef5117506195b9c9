"""Valkey is killed, emptied and frozen while work goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")

FROZEN_SECONDS = 20.0


class Load:
    """Submits short executions all the time; says what was accepted."""

    def __init__(self, fleet: Fleet) -> None:
        self.accepted: list[UUID] = []
        self._fleet = fleet
        self.task = fleet.task("nap")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._submit)

    def _submit(self) -> None:
        while not self._ended.wait(0.05):
            self.accepted.append(self._fleet.submit(self.task, seconds=0.1))

    def wait_more(self, count: int) -> None:
        """Wait until `count` more were accepted."""
        wanted = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= wanted, f"{count} more were accepted")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Submit during the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()


@pytest.fixture
def load(fleet: Fleet) -> Load:
    fleet.beat()
    fleet.worker(slots=4)
    return Load(fleet)


def test_killed_and_started_again(fleet: Fleet, valkey: ValkeyServer, load: Load) -> None:
    with load.running():
        load.wait_more(20)
        valkey.kill()
        load.wait_more(10)
        valkey.start()
        load.wait_more(20)
    done = fleet.wait_terminal(load.accepted, within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {each.crash_count for each in done} == {0}, "a lost broker cost a worker"


def test_emptied(fleet: Fleet, valkey: ValkeyServer, load: Load) -> None:
    """Neither the messages nor what Celery keeps about its queues is there afterwards."""
    with load.running():
        load.wait_more(10)
        backlog = fleet.batch(load.task, [{"seconds": 0.1}] * 200)
        wait_until(lambda: fleet.container.queue.depth("task_execution") > 5, "messages wait")
        valkey.flush()
        load.wait_more(20)
    done = fleet.wait_terminal([*load.accepted, *backlog], within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {each.attempt for each in done} == {1}


def test_frozen_for_twenty_seconds(fleet: Fleet, valkey: ValkeyServer, load: Load) -> None:
    """Submitting goes on: what can't be sent waits in the database."""
    thawing = threading.Timer(FROZEN_SECONDS, valkey.thaw)
    with load.running():
        load.wait_more(10)
        valkey.freeze()
        thawing.start()
        load.wait_more(50)
        assert thawing.is_alive(), "a frozen broker held up those who submit"
        thawing.join()
        load.wait_more(10)
    done = fleet.wait_terminal(load.accepted, within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {each.crash_count for each in done} == {0}, "a frozen broker cost a worker"
