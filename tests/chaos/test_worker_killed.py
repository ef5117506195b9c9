"""A worker is killed: before its result, between result and commit, between commit and ack."""

import pytest
from sqlalchemy import Connection, text

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.requirement("B13"), pytest.mark.requirement("A9")]


def test_killed_in_the_middle_of_its_work(fleet: Fleet) -> None:
    fleet.beat()
    first = fleet.worker("w1")
    task = fleet.task("hold")
    ids = [fleet.submit(task, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(5)]
    wait_until(lambda: len(fleet.diary_lines()) == 5, "all five run")
    fleet.lasting_worker("w2")
    first.kill()
    wait_until(lambda: len(fleet.diary_lines()) == 10, "the other worker runs all five")
    fleet.open_gate()
    for done in fleet.wait_terminal(ids):
        assert done.status is Status.COMPLETED
        assert (done.attempt, done.crash_count, done.retry_count) == (2, 1, 0)
        assert done.result["attempt"] == 2, "the result is not that of the attempt that holds"
        assert fleet.event_types(done.id) == [
            "created", "queued", "started", "worker_lost", "retry_scheduled", "queued", "started",
            "completed",
        ]  # fmt: skip


@pytest.mark.parametrize("statement_survives", [False, True])
def test_killed_between_its_result_and_the_commit(fleet: Fleet, statement_survives: bool) -> None:
    """PostgreSQL carries a statement out even if who sent it is gone: both ends must be right."""
    fleet.beat()
    first = fleet.worker("w1")
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    with fleet.container.database.transaction() as holder:
        holder.execute(text("SELECT FROM executions WHERE id = :id FOR UPDATE"), {"id": execution})
        fleet.open_gate()
        wait_until(lambda: _finishing(fleet), "the worker waits with its result")
        first.kill()
        if not statement_survives:
            _cut_off(holder)
    fleet.lasting_worker("w2")
    done = fleet.wait_terminal([execution])[0]
    assert done.status is Status.COMPLETED
    assert fleet.event_types(execution).count("completed") == 1
    assert done.result["attempt"] == done.attempt
    assert len(fleet.diary_lines()) == done.attempt
    if not statement_survives:
        assert (done.attempt, done.crash_count) == (2, 1), "the lost result was stored"


def test_killed_right_after_the_commit(fleet: Fleet) -> None:
    """Its message was acknowledged before the claim, so nothing comes again."""
    fleet.beat()
    first = fleet.worker("w1")
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    fleet.open_gate()
    fleet.wait_status(execution, Status.COMPLETED)
    first.kill()
    second = fleet.lasting_worker("w2")
    other = fleet.submit(fleet.task("noop"), number=1)
    assert {each.status for each in fleet.wait_terminal([execution, other])} == {Status.COMPLETED}
    assert fleet.get(execution).attempt == 1
    assert len(fleet.diary_lines()) == 1, "it ran twice"
    assert fleet.dropped(second, execution) == 0, "its message came again"


def _finishing(fleet: Fleet) -> bool:
    """Whether a worker's UPDATE that ends an attempt waits for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND application_name = 'celeriac-worker' AND datname = current_database()"
        " AND query LIKE '%completed_at%'"
    )
    return bool(fleet.scalar(query))


def _cut_off(holder: Connection) -> None:
    """End the server's side of a worker's connections, as when its host has gone."""
    holder.execute(
        text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'celeriac-worker' AND datname = current_database()"
        )
    )
