"""Two real beats fire schedules, and one of them is killed in between."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from celeriac.domain.schedules.model import FireStatus, SkipReason, Timing
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.services.schedules.manage import NewSchedule, Policies, Schedules
from celeriac.services.schedules.start import Starter, Target
from celeriac.services.workflows.runs import Runs
from tests.support.fleet import Fleet
from tests.support.outages import holding
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F17")

SCHEDULES = 40
NAMES = [f"s{number:02}" for number in range(SCHEDULES)]
FIRST_HALF = "name < 's20'"
PAST = text("""
UPDATE schedules SET next_fire_at = next_fire_at - interval '72.5 hours',
    due_at = due_at - interval '72.5 hours', anchor_at = anchor_at - interval '72.5 hours'
""")
FIRED = text("SELECT count(DISTINCT schedule_id) FROM schedule_fires")


@pytest.mark.failure("S7")
def test_after_three_days_two_beats_fire_each_once_and_one_is_killed(fleet: Fleet) -> None:
    shared, actor = fleet.container, fleet.actor
    runs = Runs(shared.database, shared.plans, shared.advance)
    schedules = Schedules(shared.database, Starter(shared.submit, runs), shared.dispatch)
    target = Target(fleet.task("noop"), None, {"n": 1})
    policies = Policies(overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=2)
    for name in NAMES:
        timing = Timing(every_seconds=3_600)
        new = NewSchedule(name=name, target=target, timing=timing, policies=policies)
        schedules.create(actor, new)
    with shared.database.transaction() as connection:
        connection.execute(PAST)
    url = shared.database.engine.url
    # the other half is passed over as long as another one has its rows
    with holding(url, f"SELECT id FROM schedules WHERE NOT ({FIRST_HALF}) FOR UPDATE"):
        killed, _ = fleet.beat("beat1"), fleet.beat("beat2")
        wait_until(lambda: fleet.scalar(FIRED) == SCHEDULES // 2, "the first half has fired")
        killed.kill()
    wait_until(lambda: fleet.scalar(FIRED) == SCHEDULES, "the other beat has fired the rest")
    for name in NAMES:
        found = sorted(schedules.fires(actor, name).items, key=lambda each: each.scheduled_at)
        assert [(each.status, each.reason, each.count) for each in found] == [
            (FireStatus.SKIPPED, SkipReason.MISSED, 70),
            (FireStatus.STARTED, None, 1),
            (FireStatus.STARTED, None, 1),
        ]
        assert len({each.execution_id for each in found[1:]}) == 2
        following = schedules.get(actor, name).next_fire_at
        assert following is not None
        assert following > datetime.now(UTC)
    assert fleet.scalar(text("SELECT count(*) FROM executions")) == 2 * SCHEDULES
