"""A queue is paused while its worker has work: nothing begins, and all continues after it."""

from dataclasses import replace

import pytest

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
