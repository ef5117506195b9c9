"""A queue or a worker is paused while it has work: nothing begins, and all continues after it."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.executions.states import Held, Status
from celeriac.services.executions.pauses import Pauses
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

QUEUE = "stoppable"


@pytest.mark.requirement("F15")
def test_a_paused_queue_begins_nothing_and_goes_on(fleet: Fleet, beat: Program) -> None:
    pauses = Pauses(fleet.container.database, fleet.container.dispatch)
    boss = replace(fleet.actor, role=Role.ADMIN, administrator=True)
    gate, diary = fleet.notes / "stoppable.gate", str(fleet.notes / "stoppable.diary")
    worker = fleet.worker(QUEUE, slots=1, options=("-Q", QUEUE), CELERIAC_WORKER_COROUTINES="0")
    hold = fleet.task("hold", queue=QUEUE)
    note = fleet.task("note", queue=QUEUE)
    running = fleet.submit(hold, diary=diary, gate=str(gate))
    fleet.wait_status(running, Status.RUNNING)
    # its message is at the broker, and the only slot is taken
    sent = fleet.submit(note, diary=diary)
    fleet.wait_status(sent, Status.QUEUED)

    target = PauseTarget(PauseScope.QUEUE, QUEUE)
    pause, _ = pauses.pause(boss, target, "The supplier's API is down.")
    later = fleet.batch(note, [{"diary": diary}] * 4)
    gate.touch()
    assert fleet.wait_terminal([running])[0].status is Status.COMPLETED, "what runs continues"
    # the slot is free: the message claims nothing, and its row goes back
    fleet.wait_status(sent, Status.PENDING)
    ids = [sent, *later]
    assert {(each.held, each.attempt) for each in map(fleet.get, ids)} == {(Held.PAUSED, 0)}

    pauses.resume(boss, pause.id)
    done = fleet.wait_terminal(ids)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}
    wait_until(lambda: fleet.dropped(worker, sent) == 1, "the message was dropped once")
    worker.terminate()
    assert worker.wait_end() == 0
    fleet.assert_consistent()


@pytest.mark.requirement("F15")
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_paused_worker_ends_what_it_runs_and_takes_nothing(
    fleet: Fleet, beat: Program, pool: str
) -> None:
    pauses = Pauses(fleet.container.database, fleet.container.dispatch)
    boss = replace(fleet.actor, role=Role.ADMIN, administrator=True)
    queue, gate = f"drained-{pool}", fleet.notes / f"drained-{pool}.gate"
    options = ("-Q", queue)
    worker = fleet.worker(
        f"drained-{pool}", pool=pool, slots=2, options=options, CELERIAC_WORKER_STALL_SECONDS="5"
    )
    node = f"drained-{pool}@fleet"
    diary = str(fleet.diary)
    running = fleet.submit(fleet.task("hold", queue=queue), diary=diary, gate=str(gate))
    fleet.wait_status(running, Status.RUNNING)

    pause, _ = pauses.pause(boss, PauseTarget(PauseScope.WORKER, worker=node), "Kernel upgrade.")
    wait_until(lambda: not _consumes(fleet, node), "it has reported that it takes nothing")
    note = fleet.task("note", queue=queue)
    elsewhere = fleet.submit(note, diary=diary)
    other = fleet.worker(f"relief-{pool}", slots=2, options=options)
    (done,) = fleet.wait_terminal([elsewhere])
    assert done.worker_hostname is not None
    assert done.worker_hostname.startswith(f"relief-{pool}@"), "others go on"
    gate.touch()
    (done,) = fleet.wait_terminal([running])
    assert (done.status, done.attempt) == (Status.COMPLETED, 1), "what runs continues"
    other.terminate()
    assert other.wait_end() == 0

    waiting = fleet.submit(note, diary=diary)
    pauses.resume(boss, pause.id)
    (done,) = fleet.wait_terminal([waiting])
    assert done.status is Status.COMPLETED
    assert worker.exit_code is None, "a pause is no stall"
    worker.terminate()
    assert worker.wait_end() == 0
    fleet.assert_consistent()


def _consumes(fleet: Fleet, node: str) -> bool:
    query = text("SELECT bool_or(consuming) FROM workers WHERE hostname = :node")
    return bool(fleet.scalar(query, node=node))
