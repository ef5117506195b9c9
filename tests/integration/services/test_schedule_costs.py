"""What schedules cost does not grow with their history, nor for those that let nothing wait."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection

from celeriac.db.schedules import fires
from celeriac.domain.schedules.model import SkipReason
from celeriac.domain.schedules.policies import Overlap
from tests.support.rows_read import rows_read
from tests.support.schedules import ScheduleDesk

pytestmark = pytest.mark.requirement("F9", "F17")

HISTORY = 20_000
OTHERS = 50
FIRST = UUID(int=0)


@pytest.fixture
def made(desk: ScheduleDesk) -> UUID:
    """A schedule with a long history, of which one fire runs and two wait; beside others."""
    found = desk.add("long", overlap=Overlap.QUEUE_ALL)
    for _ in range(3):
        desk.next()
    desk.core.execute(
        "INSERT INTO schedule_fires (id, workspace_id, schedule_id, owner_id, kind, scheduled_at,"
        " overlap, status)"
        " SELECT celeriac_uuid7(), workspace_id, id, owner_id, 'scheduled',"
        " now() - make_interval(hours => n), overlap,"
        " CASE WHEN n % 3 = 0 THEN 'skipped' ELSE 'started' END"
        " FROM schedules, generate_series(1, :history) AS n",
        history=HISTORY,
    )
    desk.core.execute(
        "INSERT INTO schedule_fires (id, workspace_id, schedule_id, owner_id, kind, scheduled_at,"
        " overlap, status, open)"
        " SELECT celeriac_uuid7(), s.workspace_id, other.id, s.owner_id, 'scheduled',"
        " now() - make_interval(hours => n), 'allow', 'started', n = 1"
        " FROM schedules s, (SELECT gen_random_uuid() AS id FROM generate_series(1, :others))"
        " AS other, generate_series(1, 100) AS n",
        others=OTHERS,
    )
    desk.core.execute("ANALYZE schedule_fires")
    return UUID(found)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("unended", 2),
        ("count_waiting", 3),
        ("waiting_schedules", 3),
        ("waiting", 3),
        ("happening", 4),
        ("skip_waiting", 3),
    ],
)
def test_the_keeper_reads_only_what_runs_or_waits(
    desk: ScheduleDesk, made: UUID, what: str, most: int
) -> None:
    newest = desk.fires(str(made))[-1].scheduled_at
    times = [newest - timedelta(hours=number) for number in range(3)]
    works: dict[str, Callable[[Connection], object]] = {
        "unended": lambda c: fires.unended(c, [made]),
        "count_waiting": lambda c: fires.count_waiting(c, made),
        "waiting_schedules": lambda c: fires.waiting_schedules(c, after=FIRST, limit=100),
        "waiting": lambda c: fires.waiting(c, made, limit=50),
        "happening": lambda c: fires.happening(c, made, times),
        "skip_waiting": lambda c: fires.skip_waiting(c, made, SkipReason.PAUSED),
    }
    plans = rows_read(desk.core.database, works[what], "schedule_fires")
    assert plans
    for plan, read in plans:
        assert read <= most, plan
