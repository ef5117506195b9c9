"""Real beats fire schedules: one of five is killed in between, and PostgreSQL stands still."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import text

from celeriac.domain.schedules.model import FireStatus, SkipReason, Timing
from celeriac.domain.schedules.policies import Misfire, Overlap, Policies
from celeriac.services.schedules.manage import Schedules
from celeriac.services.schedules.start import Starter, Target
from celeriac.services.schedules.stored import NewSchedule
from celeriac.services.workflows.runs import Runs
from tests.support.fixtures import migrated_database
from tests.support.fleet import Fleet, running_fleet
from tests.support.outages import holding
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F17")

MADE_UP = 2
SCHEDULES = int(os.environ.get("FIRES", "80")) // MADE_UP
"""More by `make races`."""
WITHIN_SECONDS = 60.0 + SCHEDULES
FROZEN_SECONDS = 20
NAMES = [f"s{number:05}" for number in range(SCHEDULES)]
FIRST_HALF = f"name < '{NAMES[SCHEDULES // 2]}'"
PAST = text("""
UPDATE schedules SET next_fire_at = next_fire_at - interval '72.5 hours',
    due_at = due_at - interval '72.5 hours', anchor_at = anchor_at - interval '72.5 hours'
""")
DUE = text("UPDATE schedules SET next_fire_at = now(), due_at = now(), anchor_at = now()")
FIRED = text("SELECT count(DISTINCT schedule_id) FROM schedule_fires")


def schedules_of(fleet: Fleet) -> Schedules:
    shared = fleet.container
    runs = Runs(shared.database, shared.plans, shared.advance)
    return Schedules(shared.database, Starter(shared.submit, runs), shared.dispatch)


@pytest.mark.failure("S7")
def test_after_three_days_five_beats_fire_each_once_and_one_is_killed(fleet: Fleet) -> None:
    shared, actor = fleet.container, fleet.actor
    schedules = schedules_of(fleet)
    target = Target(fleet.task("noop"), None, {"n": 1})
    policies = Policies(overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=MADE_UP)
    for name in NAMES:
        timing = Timing(every_seconds=3_600)
        new = NewSchedule(name=name, target=target, timing=timing, policies=policies)
        schedules.create(actor, new)
    with shared.database.transaction() as connection:
        connection.execute(PAST)
    url = shared.database.engine.url
    # the other half is passed over as long as another one has its rows
    with holding(url, f"SELECT id FROM schedules WHERE NOT ({FIRST_HALF}) FOR UPDATE"):
        killed, *_ = [fleet.beat(f"beat{number}") for number in range(5)]
        first_half = SCHEDULES // 2
        fired = partial(fleet.scalar, FIRED)
        wait_until(lambda: fired() == first_half, "the first half has fired", within=WITHIN_SECONDS)
        killed.kill()
    wait_until(lambda: fired() == SCHEDULES, "the others fire the rest", within=WITHIN_SECONDS)
    for name in NAMES:
        found = sorted(schedules.fires(actor, name).items, key=lambda each: each.scheduled_at)
        assert [(each.status, each.reason, each.count) for each in found] == [
            (FireStatus.SKIPPED, SkipReason.MISSED, 70),
            *[(FireStatus.STARTED, None, 1)] * MADE_UP,
        ]
        assert len({each.execution_id for each in found[1:]}) == MADE_UP
        following = schedules.get(actor, name).next_fire_at
        assert following is not None
        assert following > datetime.now(UTC)
    assert fleet.scalar(text("SELECT count(*) FROM executions")) == MADE_UP * SCHEDULES


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may freeze."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def frozen_fleet(own_postgres: PostgresServer, valkey: ValkeyServer) -> Iterator[Fleet]:
    """A fleet on it."""
    url = own_postgres.url(migrated_database(own_postgres))
    with (
        temporary_directory() as home,
        running_fleet(home, database_url=url, redis_url=valkey.url()) as made,
    ):
        yield made


@pytest.mark.failure("S10")
def test_s10_after_a_database_that_stood_still_the_same_beat_fires_on(
    frozen_fleet: Fleet, own_postgres: PostgresServer
) -> None:
    fleet = frozen_fleet
    schedules = schedules_of(fleet)
    target = Target(fleet.task("noop"), None, {"n": 1})
    policies = Policies(overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=100)
    new = NewSchedule(
        name="often", target=target, timing=Timing(every_seconds=10), policies=policies
    )
    schedules.create(fleet.actor, new)
    with fleet.container.database.transaction() as connection:
        connection.execute(DUE)
    beat = fleet.beat()
    fires = text("SELECT count(*) FROM schedule_fires WHERE status = 'started'")
    wait_until(lambda: fleet.scalar(fires) == 1, "it fires")

    own_postgres.freeze()
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + FROZEN_SECONDS, "its statements hang")
    own_postgres.thaw()
    wait_until(lambda: fleet.scalar(fires) >= 4, "it has made up for two, and fires on")
    assert beat.exit_code is None
    found = text("SELECT count(*), count(DISTINCT scheduled_at) FROM schedule_fires")
    with fleet.container.database.autocommit() as connection:
        every, times = connection.execute(found).one()
    assert every == times, "a time has fired twice"
