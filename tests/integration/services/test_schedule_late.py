"""The event `schedule.late`: a fire is later than its schedule tolerates."""

from datetime import timedelta
from typing import Any

import pytest

from celeriac.db.webhooks import deliveries
from celeriac.domain.schedules.model import FireStatus
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.domain.webhooks import WebhookEvent
from celeriac.kit.json_types import loads
from celeriac.services.webhooks.messages import Messages
from tests.support.ends import endpoint, rows
from tests.support.schedules import ScheduleDesk
from tests.support.webhooks import PUBLIC_URL

pytestmark = pytest.mark.requirement("F17", "F18")


def _told(desk: ScheduleDesk) -> list[dict[str, Any]]:
    found = rows(desk.core, "SELECT event, data FROM deliveries ORDER BY id")
    assert {row.event for row in found} <= {"schedule.late"}
    return [row.data for row in found]


@pytest.fixture(autouse=True)
def wanted(desk: ScheduleDesk) -> None:
    endpoint(desk.core, [WebhookEvent.SCHEDULE_LATE])
    endpoint(desk.core, [WebhookEvent.BUDGET_SPENT])


def test_a_fire_on_time_is_not_told_and_a_late_one_once(desk: ScheduleDesk) -> None:
    made = desk.add("nightly", late_seconds=300)
    desk.pass_time(3_600 + 20)
    desk.turn()
    assert _told(desk) == []
    desk.pass_time(3_600 + 400)
    desk.turn()
    assert desk.turn() == 0
    (told,) = _told(desk)
    late = desk.fires(made)[-1]
    assert 400 <= told.pop("seconds") < 3_600
    assert told == {
        "schedule_id": made,
        "schedule": "nightly",
        "scheduled_at": late.scheduled_at.isoformat(),
        "cause": "keeper",
        "started": 0,
        "missed": 0,
    }
    assert late.status is FireStatus.SKIPPED, "the one before has not ended"


def test_three_days_without_a_keeper_are_told_once(desk: ScheduleDesk) -> None:
    desk.add(misfire=Misfire.ALL, catch_up=5, overlap=Overlap.ALLOW)
    desk.pass_time(72 * 3_600 + 600)
    desk.turn()
    (told,) = _told(desk)
    assert (told["started"], told["missed"], told["cause"]) == (5, 67, "keeper")
    assert 71 * 3_600 < told["seconds"] < 72 * 3_600


def test_a_fire_that_waits_long_is_told_with_its_cause(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE)
    for _ in range(2):
        desk.next()
    desk.pass_time(1_000)
    desk.end_all()
    assert desk.start_waiting() == 1
    (told,) = _told(desk)
    assert (told["cause"], told["started"], told["schedule_id"]) == ("overlap", 1, made)
    assert 1_000 <= told["seconds"] < 3_600


def test_what_people_ask_for_and_a_pause_are_never_late(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE, misfire=Misfire.ALL)
    desk.schedules.pause(desk.core.actor, made)
    desk.pass_time(3 * 3_600 + 1_000)
    desk.schedules.resume(desk.core.actor, made, catch_up=True)
    desk.turn()
    assert _told(desk) == [], "it could not fire before"
    desk.schedules.pause(desk.core.actor, made)
    now = desk.now()
    desk.schedules.backfill(desk.core.actor, made, start=now - timedelta(hours=9), end=now)
    desk.end_all()
    while desk.start_waiting():
        desk.end_all()
    assert _told(desk) == []
    assert desk.schedules.run(desk.core.actor, made).status is FireStatus.STARTED


def test_the_message_leads_to_the_schedule(desk: ScheduleDesk) -> None:
    made = desk.add("nightly")
    desk.pass_time(3_600 * 9)
    desk.turn()
    with desk.core.database.transaction() as connection:
        assert deliveries.claiming_alone(connection)
        (due,) = deliveries.claim(connection, limit=9, failing=[], most_failing=0)
        message = loads(Messages(PUBLIC_URL).of(connection, [due])[due.id])
    assert isinstance(message, dict)
    data: Any = message["data"]
    assert message["type"] == "schedule.late"
    assert data["schedule"] == "nightly"
    assert data["links"] == {"schedule": f"{PUBLIC_URL}/api/v1/schedules/{made}"}
