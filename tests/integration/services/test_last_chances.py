"""An execution that ends each process it runs in fails, and takes no other with it."""

import asyncio
import threading
from pathlib import Path
from uuid import UUID

import pytest

from celeriac.domain.executions.states import Held, Status
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Job, RunContext
from tests.support.core import LEASE_SECONDS, Core
from tests.support.executing import Worker
from tests.support.waiting import wait_until

COROUTINES = 10


class Process:
    """A worker process whose agents wait until it is told to let them end."""

    def __init__(self, core: Core, workdir: Path, loop: LoopThread) -> None:
        self.core = core
        self.inside: set[UUID] = set()
        self.open = threading.Event()
        self.worker = Worker(core, workdir, loop, self._work, coroutines=COROUTINES)

    async def _work(self, job: Job, _context: RunContext) -> JsonValue:
        self.inside.add(job.execution_id)
        while not self.open.is_set():  # noqa: ASYNC110 - of threads
            await asyncio.sleep(0.005)
        return "done"

    def take_all(self) -> None:
        """Run all that is due, until each has begun or is back."""
        self.core.pass_time(60)
        self.worker.heartbeat.beat()
        self.worker.drain()
        wait_until(self._settled, "what was claimed has begun, or was handed back")

    def _settled(self) -> bool:
        return all(
            self.core.status(each.lease.execution_id) is not Status.RUNNING
            or each.lease.execution_id in self.inside
            for each in self.worker.attempts.all()
        )

    def end_all(self) -> None:
        """Let all agents end well."""
        self.open.set()
        wait_until(lambda: not self.worker.attempts.all(), "all have ended")

    def die(self) -> None:
        """Lose the process with all that it runs."""
        self.core.pass_time(LEASE_SECONDS + 1)
        assert self.core.rescue() == len(self.inside)


def set_crashes(core: Core, count: int, most: int = 3) -> None:
    core.execute("UPDATE executions SET crash_count = :n, max_crashes = :most", n=count, most=most)


def test_what_waits_beside_a_poisonous_execution_survives_it(
    core: Core, tmp_path: Path, loop: LoopThread
) -> None:
    poison, *others = (core.pending() for _ in range(4))
    died = 0
    processes = []
    for _ in range(12):
        process = Process(core, tmp_path, loop)
        processes.append(process)
        process.take_all()
        if poison in process.inside:
            process.die()
            died += 1
        else:
            process.end_all()
        if all(core.status(each).terminal for each in (poison, *others)):
            break

    assert core.get(poison).error_code == "worker_lost"
    assert died == 3
    assert [core.status(each) for each in others] == [Status.COMPLETED] * 3
    for process in processes:  # what was lost with them ends, and stores nothing
        process.end_all()
    core.assert_consistent()


def test_of_those_with_their_last_chance_one_runs_at_a_time(
    core: Core, tmp_path: Path, loop: LoopThread
) -> None:
    ids = [core.pending() for _ in range(3)]
    set_crashes(core, 2)
    fresh = core.pending()
    process = Process(core, tmp_path, loop)

    process.take_all()

    assert fresh in process.inside, "others are not held up"
    assert len(process.inside) == 2
    back = [each for each in ids if each not in process.inside]
    for execution_id in back:
        execution = core.get(execution_id)
        assert (execution.status, execution.held) == (Status.PENDING, Held.TIME)
        assert (execution.crash_count, execution.retry_count) == (2, 0)
        assert core.event_types(execution_id)[-1] == "handed_back"
    process.end_all()
    for _ in back:
        process.take_all()
        process.end_all()
    assert [core.status(each) for each in (*ids, fresh)] == [Status.COMPLETED] * 4


@pytest.mark.parametrize(("crashes", "most"), [(1, 3), (0, 1)])
def test_others_run_together(
    core: Core, tmp_path: Path, loop: LoopThread, crashes: int, most: int
) -> None:
    """Those that may be lost once more, and those that may never be, whose task says so."""
    ids = {core.pending() for _ in range(3)}
    set_crashes(core, crashes, most)
    process = Process(core, tmp_path, loop)
    process.take_all()
    assert process.inside == ids
    process.end_all()
    assert {core.status(each) for each in ids} == {Status.COMPLETED}
