"""Messages that come again and again, and housekeepers that come twice."""

from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.executions.model import Cause, Message, QueuedMessage
from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")

DELIVERIES = 20


def test_a_message_delivered_twenty_times_runs_once(fleet: Fleet) -> None:
    """Whether the doubles come before it runs, meanwhile, or after its end."""
    task = fleet.task("hold")
    before, doubles_before = submit_with_doubles(fleet, task)
    fleet.container.queue.send(doubles_before)
    worker = fleet.worker(slots=DELIVERIES)

    def wait_dropped(execution: UUID) -> None:
        wait_until(
            lambda: fleet.dropped(worker, execution) == DELIVERIES - 1, "doubles are dropped"
        )

    wait_until(fleet.diary_lines, "the first one runs")
    wait_dropped(before)
    meanwhile, doubles_meanwhile = submit_with_doubles(fleet, task)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "the second one runs")
    fleet.container.queue.send(doubles_meanwhile)
    wait_dropped(meanwhile)
    after, doubles_after = submit_with_doubles(fleet, task)
    wait_until(lambda: len(fleet.diary_lines()) == 3, "the third one runs")
    fleet.open_gate()
    ids = [before, meanwhile, after]
    done = fleet.wait_terminal(ids)
    fleet.container.queue.send(doubles_after)
    wait_dropped(after)
    fleet.assert_consistent()
    assert [fleet.get(each) for each in ids] == done
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}
    assert len(fleet.diary_lines()) == 3, "one ran more than once"


def submit_with_doubles(fleet: Fleet, task: UUID) -> tuple[UUID, list[QueuedMessage]]:
    """Submit an execution; return the messages that are to come besides its own."""
    submitted = fleet.submitted(task, diary=str(fleet.diary), gate=str(fleet.gate))
    assert submitted.celery_task_id is not None
    message = QueuedMessage(
        Message(submitted.execution_id, 0, submitted.celery_task_id),
        "task_execution",
        1,
        Cause(None, fleet.actor.user_id, task),
    )
    return submitted.execution_id, [message] * (DELIVERIES - 1)


def test_two_beats_send_and_rescue_each_execution_once(fleet: Fleet) -> None:
    for name in ("beat1", "beat2"):
        # a busy machine takes longer over a message than the 2 s after which others send it again
        fleet.beat(
            name,
            CELERIAC_KEEPER_INTERVAL_SECONDS="0.02",
            CELERIAC_KEEPER_RESEND_SECONDS="60",
        )
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
    fleet.lasting_worker("w2", slots=40)
    done = fleet.wait_terminal([*held, *stumbling])
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done[:30]} == {(2, 1)}
    assert {(each.attempt, each.retry_count) for each in done[30:]} == {(3, 2)}
    sent = text("SELECT count(*) FROM events WHERE type = 'queued' AND execution_id = :id")
    for each in done:
        assert fleet.scalar(sent, id=each.id) == each.attempt, f"{each.id} was sent too often"
