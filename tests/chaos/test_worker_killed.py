"""A worker is killed: before its result, between result and commit, between commit and ack."""

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from celeriac.domain.executions.states import Status
from celeriac.domain.limits import ConcurrencyLimit
from tests.support.fleet import SHORT_TIMES, Fleet
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.requirement("B13"), pytest.mark.requirement("A9")]

_LOST_SECONDS = sum(
    float(SHORT_TIMES[f"CELERIAC_{name}_SECONDS"]) for name in ("WORKER_LEASE", "KEEPER_INTERVAL")
)
"""So long after the death of a worker, at most, the keeper notices."""
_BUSY_MACHINE_SECONDS = 10.0
"""What the keeper's turn, the message and the claim may take where the processor is not free."""


@pytest.mark.failure("Q3")
def test_killed_in_the_middle_of_its_work(fleet: Fleet) -> None:
    """Another worker runs all of it; who waits for a slot of what is given up gets it."""
    fleet.beat()
    first = fleet.worker("w1")
    task = fleet.task("hold")
    one = [ConcurrencyLimit(key="'one'", max=1)]
    alone = fleet.task("hold", concurrency=one, max_crashes=1)
    work = {"diary": str(fleet.diary), "gate": str(fleet.gate)}
    ids = [fleet.submit(task, **work) for _ in range(5)]
    given_up, next_one = (fleet.submit(alone, **work) for _ in range(2))
    wait_until(lambda: len(fleet.diary_lines()) == 6, "all run but the one that waits for a slot")
    fleet.lasting_worker("w2")
    killed_at = fleet.scalar(text("SELECT clock_timestamp()"))
    first.kill()
    wait_until(lambda: len(fleet.diary_lines()) == 12, "the other worker runs all five, and it")
    _assert_slot_passed(fleet, given_up, next_one, killed_at)
    fleet.open_gate()
    assert fleet.wait_terminal([next_one])[0].status is Status.COMPLETED
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


def _assert_slot_passed(fleet: Fleet, given_up: UUID, next_one: UUID, killed_at: datetime) -> None:
    """Check by the rows that the next one began after the lost one, and soon after the kill."""
    lost, begun = fleet.get(given_up), fleet.get(next_one)
    assert (lost.status, lost.crash_count) == (Status.FAILED, 1)
    assert lost.completed_at is not None
    assert begun.started_at is not None
    assert killed_at < lost.completed_at <= begun.started_at
    within = timedelta(seconds=_LOST_SECONDS + _BUSY_MACHINE_SECONDS)
    assert begun.started_at - killed_at < within


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
