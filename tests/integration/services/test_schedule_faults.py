"""Keepers that die, are away, or see their clock moved: the fires are those of the policy.

The expected fires are found by counting minutes, with nothing of the code under test.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import text

from celeriac.db.engine import Connection, Database
from celeriac.domain.errors import DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError
from celeriac.domain.schedules.model import FireStatus, SkipReason, Timing
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.services.schedules.fire import FireSchedules
from tests.support.core import LIMIT
from tests.support.schedules import HOURLY, ScheduleDesk, disturbed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F17")

BEGAN = datetime(2026, 10, 25, 0, 0, 20, tzinfo=UTC)
STEP = timedelta(minutes=10)
GRACE = timedelta(minutes=1)
DAY = timedelta(days=1)


@dataclass
class Expected:
    """What the policy says, computed by steps of ten minutes."""

    misfire: Misfire
    most: int
    undecided: datetime
    started: list[datetime] = field(default_factory=list)
    skipped: list[datetime] = field(default_factory=list)

    def look(self, now: datetime) -> None:
        """Note a turn at `now` that was committed."""
        due = []
        while self.undecided <= now:
            due.append(self.undecided)
            self.undecided += STEP
        on_time = [at for at in due if now - at <= GRACE]
        late = [at for at in due if GRACE < now - at <= DAY]
        if self.misfire is Misfire.SKIP:
            made_up = []
        elif self.misfire is Misfire.LATEST:
            made_up = [] if on_time else late[-1:]
        else:
            made_up = late[-self.most :]
        self.started += made_up + on_time
        self.skipped += [at for at in due if at not in made_up and at not in on_time]


def _kill(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


@pytest.mark.failure("S6")
@pytest.mark.failure("S7")
@pytest.mark.parametrize("keepers", [2, 5])
@pytest.mark.parametrize("misfire", list(Misfire))
def test_s7_the_fires_are_those_of_the_policy_whatever_happens_to_the_keepers(
    desk: ScheduleDesk, keepers: int, misfire: Misfire
) -> None:
    """Keepers side by side, one killed before its commit, none for days, a clock that is moved."""
    chance = Random(f"{keepers} {misfire}")
    steps = [30.0] * 12 + [600.0] * 6 + [1_500.0] * 4 + [3 * 86_400.0] + [-7_200.0] * 2
    chance.shuffle(steps)
    desk.moment = BEGAN
    made = desk.add(timing=Timing(cron="*/10 * * * *"), misfire=misfire, catch_up=3,
                    overlap=Overlap.ALLOW)  # fmt: skip
    expected, killed = Expected(misfire, 3, BEGAN.replace(minute=10, second=0)), 0
    with ThreadPoolExecutor(keepers) as threads:
        for number, step in enumerate([600.0, *steps, 600.0]):
            desk.moment += timedelta(seconds=step)
            if number == 0 or chance.random() < 0.4:
                try:
                    disturbed(desk, after_store=_kill)(LIMIT)
                except DatabaseUnavailableError:
                    killed += 1
                    continue  # nothing was committed; the others look a step later
            else:
                jobs = [desk.another_keeper() for _ in range(keepers)]
                list(threads.map(lambda job: job(LIMIT), jobs))
            expected.look(desk.moment)
    assert killed > 0
    found = desk.fires(made)
    assert [at.scheduled_at for at in found if at.status is FireStatus.STARTED] == expected.started
    skipped: list[datetime] = []
    for each in found:
        if each.status is FireStatus.SKIPPED:
            assert each.reason is SkipReason.MISSED
            skipped += [each.scheduled_at + number * STEP for number in range(each.count)]
            assert each.last_at in ({skipped[-1]} if each.count > 1 else {None})
    assert skipped == expected.skipped
    assert desk.get(made).next_fire_at == expected.undecided
    assert desk.core.count("executions") == len(expected.started), "one for each fire"
    desk.core.assert_consistent()


@pytest.mark.failure("S8")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("overlap", list(Overlap))
def test_s8_what_overlaps_is_started_waits_or_is_skipped_as_the_policy_says(
    desk: ScheduleDesk, overlap: Overlap, seed: int
) -> None:
    """Fires, ends and looks of the keeper in a random order, against a model of a few lines."""
    chance = Random(f"{overlap} {seed}")
    steps = chance.choices(["fire", "end", "look"], weights=[4, 2, 3], k=16)
    made = desk.add(overlap=overlap)
    running, statuses = 0, list[str]()
    for step in steps:
        if step == "fire":
            desk.next()
            waits = statuses.count("waiting")
            room = {Overlap.SKIP: 0, Overlap.QUEUE_ALL: 99}.get(overlap, 1)
            if overlap is Overlap.ALLOW or running + waits == 0:
                statuses.append("started")
                running += 1
            else:
                statuses.append("waiting" if waits < room else "skipped")
        elif step == "end":
            assert desk.end_all() == running
            running = 0
        else:
            started = desk.start_waiting()
            if running and overlap is Overlap.CANCEL_RUNNING and "waiting" in statuses:
                running = 0  # nothing has begun, so it is cancelled at once
                assert started == 0
            elif not running and "waiting" in statuses:
                statuses[statuses.index("waiting")] = "started"
                running += 1
                assert started == 1
            else:
                assert started == 0
        assert [each.status for each in desk.fires(made)] == statuses, steps
    desk.core.assert_consistent()


@pytest.mark.failure("S7")
def test_s7_a_process_that_is_killed_between_claim_and_commit(desk: ScheduleDesk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    url = desk.core.database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.support.schedule_keeper", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        try:
            assert keeper.stdout is not None
            assert "stored\n" in keeper.stdout
            assert [desk.turn(), desk.another_keeper()(LIMIT)] == [0, 0], "others don't wait for it"
            assert desk.fires(made) == [], "nothing is committed"
        finally:
            keeper.kill()
    wait_until(lambda: desk.turn() == 1, "the server has noticed the end of the process")
    assert len(desk.started(made)) == 1
    assert desk.core.count("executions") == 1
    assert desk.turn() == 0


@pytest.mark.failure("S10")
def test_s10_a_statement_that_stalls_ends_and_the_next_turn_fires(desk: ScheduleDesk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    url = desk.core.database.engine.url.render_as_string(hide_password=False)
    own = Database(url, connections=2, lock_seconds=0.2, statement_seconds=0.2)
    keeper = FireSchedules(own, desk.starter, desk.core.dispatch)
    with desk.core.database.transaction() as connection:
        connection.execute(text("LOCK TABLE schedules IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises((DatabaseBusyError, DatabaseTimeoutError)):
            keeper(LIMIT)
    own.close()
    assert desk.turn() == 1
    assert len(desk.started(made)) == 1


def test_a_clock_that_is_set_forward_and_back_fires_nothing_twice(desk: ScheduleDesk) -> None:
    desk.moment = BEGAN
    made = desk.add(timing=HOURLY, overlap=Overlap.ALLOW)
    desk.moment = BEGAN + timedelta(days=365)
    assert desk.turn() == 1
    desk.moment = BEGAN
    assert desk.turn() == 0
    started = desk.fires(made, FireStatus.STARTED)
    assert [each.scheduled_at for each in started] == [BEGAN + timedelta(days=365)]
    desk.moment = BEGAN + timedelta(days=365, hours=1)
    assert desk.turn() == 1
    assert len(desk.started(made)) == 2
