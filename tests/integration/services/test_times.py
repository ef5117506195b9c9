"""All times are the database's, and those of events are when they were emitted."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from celeriac.db import approvals, usage
from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.approvals import ApprovalFilter
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall, UsageBy
from celeriac.services.budgets.usage import Usage
from tests.support.core import Core

EXACT = timedelta(seconds=20)
"""Far less than what is distinguished here, far more than a test is held up."""


def now(core: Core) -> datetime:
    with core.database.autocommit() as connection:
        moment: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return moment


def test_events_and_calls_have_their_own_times_not_that_of_their_storing(core: Core) -> None:
    """The database was away for an hour, and all that was emitted meanwhile is stored at once."""
    claim, ages = core.running(), [3600, 1800, 60]
    emitted = time.monotonic()
    notes = PendingWrites(
        claim.lease,
        [NewEvent(EventType.CUSTOM, "{}", emitted - age) for age in ages],
        [ModelCall("p", "m", 1, 1, made=emitted - age) for age in ages],
    )
    with core.database.autocommit() as connection:
        assert leases.store_batch(connection, [notes])
        calls = connection.execute(text("SELECT at FROM model_calls ORDER BY at")).scalars().all()
    stored, events = now(core), core.events(claim.lease.execution_id)[-3:]
    for times in ([event.at for event in events], calls):
        assert len(times) == len(ages)
        for at, age in zip(times, ages, strict=True):
            assert abs(stored - at - timedelta(seconds=age)) < EXACT


def test_an_event_without_a_time_of_its_own_happens_when_it_is_stored(core: Core) -> None:
    claim = core.running()
    with core.database.autocommit() as connection:
        leases.store_batch(connection, [PendingWrites(claim.lease, [NewEvent(EventType.CUSTOM)])])
    assert abs(now(core) - core.events(claim.lease.execution_id)[-1].at) < EXACT


def test_a_start_at_a_time_is_stored_as_it_was_given(core: Core) -> None:
    wanted = datetime(2031, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
    request = SubmitRequest(task_id=core.task, available_at=wanted)
    submitted = core.submit(core.actor, request)
    assert submitted.status is Status.PENDING
    assert core.get(submitted.execution_id).available_at == wanted


def test_a_time_that_has_passed_is_now_and_jumps_no_queue(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, available_at=datetime(2001, 1, 1, tzinfo=UTC))
    submitted = core.submit(core.actor, request)
    assert submitted.status is Status.QUEUED
    row = core.get(submitted.execution_id)
    assert row.available_at == row.created_at


def test_a_delay_counts_from_the_databases_now(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, delay_seconds=90.5)
    row = core.get(core.submit(core.actor, request).execution_id)
    assert row.available_at - row.created_at == timedelta(seconds=90.5)


def test_the_database_says_whether_a_question_has_expired(core: Core) -> None:
    execution_id = core.waiting()

    def expired() -> bool:
        wanted = ApprovalFilter(execution_id=execution_id)
        with core.database.autocommit() as connection:
            (found,) = approvals.find(connection, wanted, before=None, limit=10).items
        return found.expired

    assert not expired()
    core.execute("UPDATE approvals SET expires_at = now()")
    assert expired()


def test_usage_ends_with_the_databases_day(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "today", lambda _: datetime(2031, 1, 30, tzinfo=UTC).date())
    for day in ("2030-12-31", "2031-01-01", "2031-01-30", "2031-01-31"):
        core.execute(
            "INSERT INTO usage_days (workspace_id, owner_id, day, task_id, provider, model, calls)"
            " VALUES (:workspace, :owner, CAST(:day AS date), :task, 'p', 'm', 1)",
            workspace=core.actor.workspace_id, owner=core.actor.user_id, day=day, task=core.task,
        )  # fmt: skip
    totals = Usage(core.database).totals(core.actor, UsageBy.DAY)
    assert [total.key for total in totals] == ["2031-01-30", "2031-01-01"]
