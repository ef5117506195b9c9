"""Messages that come again and again, and housekeepers that come twice."""

import pytest
from sqlalchemy import text

from celeriac.domain.executions.model import Cause, Message, QueuedMessage
from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")

DELIVERIES = 20


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_message_delivered_twenty_times_runs_once(fleet: Fleet, when: str) -> None:
    task = fleet.task("hold")
    submitted = fleet.submitted(task, diary=str(fleet.diary), gate=str(fleet.gate))
    execution = submitted.execution_id
    assert submitted.celery_task_id is not None
    message = QueuedMessage(
        Message(execution, 0),
        submitted.celery_task_id,
        "task_execution",
        1,
        Cause(None, fleet.actor.user_id, task),
    )
    doubles = [message] * (DELIVERIES - 1)
    if when == "before":
        fleet.container.queue.send(doubles)
    worker = fleet.worker(slots=DELIVERIES)
    wait_until(fleet.diary_lines, "it runs")
    if when == "during":
        fleet.container.queue.send(doubles)
        wait_until(lambda: fleet.dropped(worker, execution) == len(doubles), "doubles are dropped")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    if when == "after":
        fleet.container.queue.send(doubles)
    wait_until(lambda: fleet.dropped(worker, execution) == len(doubles), "doubles are dropped")
    fleet.assert_consistent()
    assert fleet.get(execution) == done
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert len(fleet.diary_lines()) == 1, "it ran more than once"


def test_two_beats_send_and_rescue_each_execution_once(fleet: Fleet) -> None:
    for name in ("beat1", "beat2"):
        fleet.beat(name, CELERIAC_KEEPER_INTERVAL_SECONDS="0.02")
    first = fleet.worker("w1", slots=40)
    held = fleet.batch(
        fleet.task("hold"), [{"diary": str(fleet.diary), "gate": str(fleet.gate)}] * 30
    )
    wait_until(lambda: len(fleet.diary_lines()) == 30, "all run")
    stumbling = fleet.batch(
        fleet.task("stumble", retry={"base_seconds": 0.2, "jitter": 0.0}),
        [{"diary": str(fleet.notes / "stumbles"), "times": 2}] * 30,
    )
    wait_until(lambda: all(fleet.get(each).status.terminal for each in stumbling), "they end")
    first.kill()
    fleet.open_gate()
    fleet.worker("w2", slots=40)
    done = fleet.wait_terminal([*held, *stumbling])
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done[:30]} == {(2, 1)}
    assert {(each.attempt, each.retry_count) for each in done[30:]} == {(3, 2)}
    sent = text("SELECT count(*) FROM events WHERE type = 'queued' AND execution_id = :id")
    for each in done:
        assert fleet.scalar(sent, id=each.id) == each.attempt, f"{each.id} was sent too often"
