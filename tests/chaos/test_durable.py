"""Durable functions whose workers are killed: each stored step is done once."""

from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.kit.json_types import dumps
from tests.support import durable_functions
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.requirement("F11"), pytest.mark.requirement("B13")]

MODULE = durable_functions.__name__
NO_PAUSE = text(
    "UPDATE executions SET available_at = now() WHERE status = 'pending' AND held = 'time'"
)
SLEPT = text(
    "SELECT extract(epoch FROM max(at) - min(at)) FROM steps"
    " WHERE execution_id = :id AND kind = 'step'"
)
STEPS = [f"step {number}" for number in range(1, 11)]


def worker_of(fleet: Fleet, name: str = "w1", *, pool: str = "threads", slots: int = 8) -> Program:
    """Start a worker that may import the functions."""
    return fleet.worker(name, pool=pool, slots=slots, CELERIAC_AGENT_MODULES=dumps([MODULE]))


def submit(fleet: Fleet, function: str, **variables: object) -> UUID:
    task = fleet.task(f"{MODULE}:{function}", max_crashes=20)
    return fleet.submit(task, log=str(fleet.diary), **variables)


def test_killed_after_each_of_ten_steps(fleet: Fleet) -> None:
    fleet.beat()
    worker_of(fleet, pool="prefork", slots=1)
    execution = submit(fleet, "killed", marks=str(fleet.notes))

    def ended() -> bool:
        # the pauses after lost workers grow to minutes
        with fleet.container.database.autocommit() as connection:
            connection.execute(NO_PAUSE)
        return fleet.get(execution).status.terminal

    wait_until(ended, "it has ended", within=240.0)

    done = fleet.get(execution)
    assert (done.status, done.result) == (Status.COMPLETED, STEPS)
    assert (done.attempt, done.crash_count) == (11, 10)
    assert fleet.diary_lines() == STEPS
    assert fleet.event_types(execution).count("step_completed") == 10
    fleet.assert_consistent()


def test_the_whole_stack_is_killed_in_the_middle(fleet: Fleet, valkey: ValkeyServer) -> None:
    beat, worker = fleet.beat(), worker_of(fleet)
    gate = fleet.notes / "gate"
    execution = submit(fleet, "halting", gate=str(gate))
    # a step whose effect is there may not be stored yet
    wait_until(
        lambda: fleet.event_types(execution).count("step_completed") == 5, "five steps are stored"
    )

    for program in (worker, beat, valkey):
        program.kill()
    valkey.start()
    gate.touch()
    fleet.beat("beat2")
    worker_of(fleet, "w2")

    (done,) = fleet.wait_terminal([execution])
    assert (done.status, done.result) == (Status.COMPLETED, STEPS)
    assert fleet.diary_lines() == STEPS
    fleet.assert_consistent()


def test_a_sleep_lasts_over_a_restart(fleet: Fleet) -> None:
    beat, worker = fleet.beat(), worker_of(fleet)
    execution = submit(fleet, "sleeper", seconds=8.0)
    fleet.wait_status(execution, Status.WAITING)
    assert fleet.get(execution).waiting_for is WaitingFor.SLEEP
    for program in (worker, beat):
        program.kill()

    fleet.beat("beat2")
    worker_of(fleet, "w2")

    (done,) = fleet.wait_terminal([execution])
    assert done.result == ["before", "after"]
    assert fleet.diary_lines() == ["before", "after"]
    assert fleet.scalar(SLEPT, id=execution) >= 8.0
    fleet.assert_consistent()
