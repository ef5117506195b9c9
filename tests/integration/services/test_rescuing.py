"""Lost workers: what the keeper makes of what they ran."""

from contextlib import suppress
from datetime import timedelta

import pytest

from celeriac.db import engine
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.states import Status
from celeriac.services.executions.rescue import DatabaseView, Recover
from tests.support.core import LEASE_SECONDS, LIMIT, Core
from tests.support.outages import HeldDatabase, read_only
from tests.support.together import together

pytestmark = pytest.mark.requirement("A9")


def lose(core: Core) -> int:
    core.pass_time(LEASE_SECONDS + 1)
    return core.rescue()


def test_a_lease_is_left_alone_until_it_has_run_out(core: Core) -> None:
    claim = core.running()
    core.pass_time(LEASE_SECONDS - 5)
    assert core.rescue() == 0
    core.pass_time(6)
    assert core.rescue() == 1
    assert core.rescue() == 0, "it was rescued twice"
    lost = core.get(claim.lease.execution_id)
    assert (lost.status, lost.crash_count, lost.retry_count) == (Status.PENDING, 1, 0)
    assert lost.error_code == "worker_lost"
    assert lost.error_message is not None
    assert "worker w was lost during attempt 1" in lost.error_message
    assert core.event_types(lost.id)[3:] == ["worker_lost", "retry_scheduled"]
    core.assert_consistent()


def test_after_the_cap_it_fails(core: Core) -> None:
    execution_id = core.pending()
    core.execute("UPDATE executions SET max_crashes = 3")
    for crash in range(1, 4):
        core.pass_time(60)
        core.dispatch.send_due()
        assert core.claim(core.message(execution_id)) is not None, f"crash {crash}"
        assert lose(core) == 1
    failed = core.get(execution_id)
    assert (failed.status, failed.error_code) == (Status.FAILED, "worker_lost")
    assert (failed.attempt, failed.crash_count) == (3, 3)
    assert failed.error_details == {
        "type": "WorkerLostError", "traceback": None, "attempt": 3, "worker": "w",
    }  # fmt: skip
    assert core.event_types(execution_id)[-2:] == ["worker_lost", "failed"]
    core.assert_consistent()


def test_waits_grow_and_differ(core: Core) -> None:
    """Those lost together must not all come back in lockstep with the one that killed them."""
    ids = [core.running().lease.execution_id for _ in range(20)]
    lose(core)
    first = [(each.available_at - each.started_at).total_seconds() for each in map(core.get, ids)
             if each.started_at]  # fmt: skip
    core.execute("UPDATE executions SET status = 'running', crash_count = 2")
    lose(core)
    third = [(each.available_at - each.started_at).total_seconds() for each in map(core.get, ids)
             if each.started_at]  # fmt: skip
    assert max(first) - min(first) > 0.1
    assert sum(third) / len(third) > sum(first) / len(first) + 1


def test_what_was_to_be_cancelled_is_cancelled(core: Core) -> None:
    claim = core.running()
    core.cancel(core.actor, [claim.lease.execution_id])
    assert lose(core) == 1
    done = core.get(claim.lease.execution_id)
    assert (done.status, done.cancel_requested_by) == (Status.CANCELLED, core.actor.name)
    assert core.event_types(done.id)[-3:] == ["cancel_requested", "worker_lost", "cancelled"]
    core.assert_consistent()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Keeper:
    """A keeper of its own, on a clock that the test sets."""

    def __init__(self, core: Core, database: Database | None = None) -> None:
        self.clock = Clock()
        view = DatabaseView(LEASE_SECONDS, clock=self.clock)
        self.recover = Recover(database or core.database, core.queue, core.live, view)

    def look(self) -> int:
        """Look once, right now."""
        return self.recover.rescue_lost_workers(LIMIT)

    def watch(self, seconds: float) -> int:
        """Look twice a second for so long; return how many were rescued."""
        rescued = 0
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            rescued += self.look()
        return rescued


def test_a_new_keeper_takes_nothing_for_the_time_of_a_lease(core: Core) -> None:
    core.running()
    core.pass_time(LEASE_SECONDS + 1)
    keeper = Keeper(core)
    assert keeper.watch(LEASE_SECONDS - 1) == 0
    assert keeper.watch(2) == 1


@pytest.mark.requirement("B13")
def test_after_a_gap_the_keeper_waits_for_the_time_of_a_lease(core: Core) -> None:
    """It was stopped, or the pooler held its statements: nobody knows who could renew."""
    keeper = Keeper(core)
    assert keeper.watch(LEASE_SECONDS + 5) == 0
    core.running()
    core.pass_time(LEASE_SECONDS + 1)
    keeper.clock.now += LEASE_SECONDS + 1
    assert keeper.look() == 0, "the look right after the gap"
    assert keeper.watch(LEASE_SECONDS - 1) == 0
    assert keeper.watch(2) == 1


def test_a_look_that_hangs_takes_nothing(core: Core) -> None:
    """A pooler that is paused, or a server that is frozen, holds the very statement that rescues;
    it is carried out when they go on."""
    held = HeldDatabase(core.database)
    keeper = Keeper(core, held)
    assert keeper.watch(LEASE_SECONDS + 5) == 0
    claim = core.running()
    core.pass_time(LEASE_SECONDS + 1)

    def pass_clock() -> None:
        keeper.clock.now += LEASE_SECONDS + 1

    held.on_begin = pass_clock
    assert keeper.look() == 0
    held.on_begin = None
    assert core.status(claim.lease.execution_id) is Status.RUNNING
    assert keeper.watch(LEASE_SECONDS - 1) == 0
    held.close()


@pytest.mark.requirement("B13")
def test_a_database_that_cannot_write_is_a_gap(core: Core) -> None:
    keeper = Keeper(core)
    assert keeper.watch(LEASE_SECONDS + 5) == 0
    core.running()
    core.pass_time(LEASE_SECONDS + 1)
    with read_only(core.database.engine.url):
        for _ in range(3):
            keeper.clock.now += 0.5
            with pytest.raises(DatabaseUnavailableError):
                keeper.look()
    with suppress(DatabaseUnavailableError):  # the connection that was cut
        keeper.look()
    assert keeper.watch(LEASE_SECONDS - 1) == 0
    assert keeper.watch(2) == 1


@pytest.mark.parametrize("jump", [LEASE_SECONDS, -LEASE_SECONDS])
def test_a_database_whose_clock_jumps_is_a_gap(
    core: Core, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """A standby whose clock is ahead, or a machine that was suspended: all leases end at once."""
    ahead = timedelta()
    real = engine.clock
    monkeypatch.setattr(engine, "clock", lambda connection: real(connection) + ahead)
    keeper = Keeper(core)
    assert keeper.watch(LEASE_SECONDS + 5) == 0
    core.running()
    core.pass_time(LEASE_SECONDS + 1)
    ahead = timedelta(seconds=jump)
    assert keeper.watch(LEASE_SECONDS - 1) == 0
    assert keeper.watch(2) == 1


@pytest.mark.requirement("B13")
def test_a_clock_that_was_set_back_makes_no_lost_worker_live(core: Core) -> None:
    """Its lease would last until the clock has caught up."""
    lost, live = core.running("lost"), core.running("live")
    core.execute(
        "UPDATE workers SET lease_until = lease_until + interval '1 hour',"
        " seen_at = seen_at + interval '1 hour'"
    )
    core.worker("live")  # it renews
    assert core.rescue() == 1
    assert core.status(lost.lease.execution_id) is Status.PENDING
    assert core.status(live.lease.execution_id) is Status.RUNNING
    core.assert_consistent()


def test_each_keeper_has_a_view_of_its_own(core: Core) -> None:
    old, new = Keeper(core), Keeper(core)
    assert old.watch(LEASE_SECONDS + 5) == 0
    core.running()
    core.pass_time(LEASE_SECONDS + 1)
    assert new.look() == 0
    assert old.look() == 1


def test_many_keepers_rescue_each_execution_once(core: Core) -> None:
    ids = [core.running().lease.execution_id for _ in range(30)]
    core.pass_time(LEASE_SECONDS + 1)
    assert sum(together([core.rescue] * 6)) == 30
    assert {core.get(each).crash_count for each in ids} == {1}
    core.assert_consistent()


def test_a_finish_and_a_rescue_at_the_same_instant(core: Core) -> None:
    claims = [core.running() for _ in range(20)]
    core.pass_time(LEASE_SECONDS + 1)
    finishes = [lambda each=each: core.end(each, Completed(1)) for each in claims]
    results = together([core.rescue, *finishes])
    statuses = [core.status(each.lease.execution_id) for each in claims]
    ended = sum(getattr(each, "status", None) is Status.COMPLETED for each in results[1:])
    assert ended == statuses.count(Status.COMPLETED)
    assert results[0] == statuses.count(Status.PENDING) == 20 - ended
    core.assert_consistent()
