"""Attempts that only wait: they run without a slot, and end together."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from celeriac.db.engine import Database
from celeriac.domain.errors import PermanentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Limits
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.executions import run
from celeriac.services.executions.attempt import StopReason
from celeriac.services.ports import Job, RunContext
from tests.support.core import Core
from tests.support.executing import Worker
from tests.support.forgetful import ForgetfulDatabase
from tests.support.memory import MemoryRunner
from tests.support.outages import holding
from tests.support.statements import sent
from tests.support.waiting import wait_until


class Gate:
    """What the agents of a test wait for."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = 0
        self._lock = threading.Lock()

    async def wait(self, job: Job, context: RunContext) -> JsonValue:
        with self._lock:
            self.inside += 1
        while not self.open.is_set() and not job.variables.get("quick"):  # noqa: ASYNC110 - of threads
            await asyncio.sleep(0.005)
        if job.variables.get("fails"):
            raise PermanentError("It can't be done.")
        if job.variables.get("tells"):
            await context.emit(EventType.CUSTOM, {"name": "a"})
        return job.variables.get("n", "done")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def worker_of(core: Core, gate: Gate, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    loops = []

    def make(coroutines: int, database: Database | None = None) -> Worker:
        loop = LoopThread()
        loops.append(loop)
        return Worker(core, tmp_path, loop, gate.wait, database, coroutines=coroutines)

    yield make
    gate.open.set()
    for loop in loops:
        loop.close()


def all_are(core: Core, ids: list[UUID], status: Status) -> bool:
    return all(core.status(each) is status for each in ids)


def warm(core: Core, worker: Worker) -> None:
    """Let the worker learn that the agent only waits."""
    first = core.pending_many([{"quick": True}])[0]
    core.dispatch.send_due()
    worker.run(first)
    wait_until(lambda: core.status(first).terminal and not len(worker.attempts), "it has ended")


def test_the_slot_is_free_while_the_agent_waits(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(10)
    ids = [core.queued() for _ in range(3)]
    for each in ids:
        assert worker.run(each) == 1
    assert all_are(core, ids, Status.RUNNING)
    wait_until(lambda: gate.inside == 3, "all three run at once")
    gate.open.set()
    wait_until(lambda: all_are(core, ids, Status.COMPLETED), "all have ended")
    wait_until(lambda: len(worker.attempts) == 0, "nothing is registered")
    core.assert_consistent()


def test_an_attempt_keeps_its_slot_until_there_is_a_place(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(1)
    first, second = core.queued(), core.queued()
    messages = [core.message(each) for each in (first, second)]
    worker.execute(messages[0])
    with ThreadPoolExecutor(1) as slots:
        slot = slots.submit(worker.execute, messages[1])
        wait_until(lambda: gate.inside == 2, "both run")
        assert not slot.done()
        worker.attempts.stop([first], StopReason.CANCELLED)
        assert slot.result(20) == 1, "its slot is free once the first has ended"
    assert core.status(second) is Status.RUNNING
    gate.open.set()
    wait_until(lambda: core.status(second) is Status.COMPLETED, "the second has ended")
    core.assert_consistent()


def test_messages_are_asked_for_when_places_claim_nothing_more(
    core: Core, gate: Gate, worker_of: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(5)
    alone, among_others = core.queued(), core.queued()
    monkeypatch.setattr(run, "_NEXT_CLAIM_SECONDS", -1.0)  # the time of each message is over
    gate.open.set()
    worker.run(alone)
    wait_until(lambda: core.status(alone).terminal and not len(worker.attempts), "it has ended")
    assert not worker.sends.is_set(), "nothing has waited"
    core.dispatch.turns.found(DEFAULT_QUEUE)
    worker.run(among_others)
    assert worker.sends.wait(20)
    core.assert_consistent()


def test_what_is_due_is_claimed_with_the_message_and_never_without_a_place(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(5)
    warm(core, worker)
    first = core.queued()
    ids = [first, *core.pending_many([{"n": n} for n in range(12)])]
    message = core.message(first)
    with ThreadPoolExecutor(1) as slots:
        slot = slots.submit(worker.execute, message)
        assert slot.result(60) == 1, "one place was left for it"
        wait_until(lambda: gate.inside == 1 + 5, "five places")
        running = [each for each in ids if core.status(each) is Status.RUNNING]
        assert len(running) == 5
        gate.open.set()
    wait_until(lambda: not len(worker.attempts), "all that was claimed has ended")
    left = [each for each in ids if core.status(each) is not Status.COMPLETED]
    assert all(core.status(each) is Status.PENDING for each in left)
    core.assert_consistent()


def test_many_need_fewer_statements_than_there_are(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(20)
    warm(core, worker)
    gate.open.set()
    first = core.queued()
    ids = [first, *core.pending_many([{}] * 100)]
    message = core.message(first)
    with sent(core.database) as statements:
        worker.execute(message)
        wait_until(lambda: not len(worker.attempts), "nothing runs any more")
        while not all_are(core, ids, Status.COMPLETED):  # a second is short on a busy machine
            worker.drain()
            wait_until(lambda: not len(worker.attempts), "nothing runs any more")
    of_worker = [each for each in statements if "UPDATE executions" in each]
    assert len(of_worker) < 70, len(of_worker)
    core.assert_consistent()


@pytest.mark.parametrize("kind", ["fails", "tells"])
def test_every_end_is_stored(
    core: Core, gate: Gate, worker_of: Callable[..., Worker], kind: str
) -> None:
    worker = worker_of(10)
    ids = list(core.pending_many([{kind: True}, {}, {kind: True}]))
    core.dispatch.send_due()
    for each in ids:
        worker.execute(core.message(each))
    gate.open.set()
    wait_until(lambda: all(core.status(each).terminal for each in ids), "all have ended")
    wanted = Status.FAILED if kind == "fails" else Status.COMPLETED
    assert [core.status(each) for each in ids] == [wanted, Status.COMPLETED, wanted]
    core.assert_consistent()


@pytest.mark.parametrize("reason", [StopReason.CANCELLED, StopReason.SHUTDOWN])
def test_all_can_be_stopped(
    core: Core, gate: Gate, worker_of: Callable[..., Worker], reason: StopReason
) -> None:
    worker = worker_of(10)
    ids = [core.queued() for _ in range(4)]
    for each in ids:
        worker.execute(core.message(each))
    wait_until(lambda: gate.inside == 4, "all run")
    worker.shutting_down = reason is StopReason.SHUTDOWN  # or it would claim them again
    worker.attempts.stop_all(reason)
    wanted = Status.CANCELLED if reason is StopReason.CANCELLED else Status.PENDING
    wait_until(lambda: all_are(core, ids, wanted), "all are stopped")
    wait_until(lambda: not len(worker.attempts), "nothing is registered")
    core.assert_consistent()


def test_the_hard_limit_holds_without_a_slot(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(10)
    execution_id = core.queued()
    worker.execute(core.message(execution_id))
    wait_until(lambda: gate.inside == 1, "it runs")
    (attempt,) = worker.attempts.all()
    attempt.time_limits.begin(Limits(soft_seconds=0.1, hard_seconds=0.2))
    wait_until(lambda: core.status(execution_id) is not Status.RUNNING, "it was stopped")
    assert core.get(execution_id).error_code == "hard_time_limit"
    core.assert_consistent()


def test_the_hard_limit_holds_while_nobody_knows_whether_it_waits(
    core: Core, gate: Gate, worker_of: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(10)
    monkeypatch.setattr(MemoryRunner, "only_waits", lambda _runner, _agent: None)
    execution_id = core.queued()
    with ThreadPoolExecutor(1) as slots:
        slot = slots.submit(worker.execute, core.message(execution_id))
        wait_until(lambda: gate.inside == 1, "its module is imported, which takes for ever")
        (attempt,) = worker.attempts.all()
        attempt.time_limits.begin(Limits(soft_seconds=0.1, hard_seconds=0.2))
        try:
            wait_until(lambda: core.status(execution_id) is not Status.RUNNING, "it was stopped")
        finally:
            gate.open.set()
        assert slot.result(20) == 1
    assert core.get(execution_id).error_code == "hard_time_limit"
    core.assert_consistent()


def test_a_locked_row_does_not_delay_the_others(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(10)
    ids = [core.queued() for _ in range(4)]
    for each in ids:
        worker.execute(core.message(each))
    wait_until(lambda: gate.inside == 4, "all run")
    locked = f"SELECT id FROM executions WHERE id = '{ids[0]}' FOR UPDATE"
    with holding(core.database.engine.url, locked):
        gate.open.set()
        wait_until(lambda: all_are(core, ids[1:], Status.COMPLETED), "the others have ended")
    wait_until(lambda: core.status(ids[0]) is Status.COMPLETED, "so has the first, later")
    core.assert_consistent()


@pytest.mark.parametrize(("late", "losses"), [(0, 1), (0, 2), (1, 0), (1, 1)])
def test_lost_answers_lose_and_double_nothing(
    core: Core, gate: Gate, worker_of: Callable[..., Worker], late: int, losses: int
) -> None:
    forgetful = ForgetfulDatabase(core.database)
    worker = worker_of(4, forgetful)
    warm(core, worker)
    first = core.queued()
    ids = [first, *core.pending_many([{"n": n} for n in range(8)])]
    worker.execute(core.message(first))
    forgetful.late, forgetful.losses = late, losses
    gate.open.set()
    wait_until(lambda: not len(worker.attempts), "what was claimed has ended")
    forgetful.settle()
    worker.heartbeat.beat()  # hands back what was claimed in an answer that was lost for good
    core.pass_time(60)
    for _ in range(10):
        worker.drain()
        if all_are(core, ids, Status.COMPLETED):
            break
        core.pass_time(60)
    wait_until(lambda: all_are(core, ids, Status.COMPLETED), "all have ended")
    for n, each in enumerate(ids):
        assert core.get(each).result == (n - 1 if n else "done")
        assert core.event_types(each).count("completed") == 1
    core.assert_consistent()
    forgetful.close()


def test_nothing_new_is_claimed_while_the_process_shuts_down(
    core: Core, gate: Gate, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(10)
    warm(core, worker)
    execution_id = core.queued()
    worker.execute(core.message(execution_id))
    (following,) = core.pending_many([{}])
    worker.shutting_down = True
    gate.open.set()
    wait_until(lambda: core.status(execution_id) is Status.COMPLETED, "it has ended")
    assert core.status(following) is Status.PENDING
