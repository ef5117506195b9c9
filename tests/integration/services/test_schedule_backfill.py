"""Backfills: the fires of a range of time that have not happened, each once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac.domain.accounts import Role
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.schedules.backfill import MAX_TIMES, Backfill
from celeriac.domain.schedules.model import FireKind, FireStatus, SkipReason, Timing
from celeriac.domain.schedules.policies import MAX_WAITING, Misfire, Overlap
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.schedules.start import Target
from tests.support.catalog import make_actor, make_colleague
from tests.support.core import LIMIT
from tests.support.schedules import ScheduleDesk

pytestmark = pytest.mark.requirement("F17")

HOUR = timedelta(hours=1)


def _past(desk: ScheduleDesk, hours: int, **policies: Any) -> str:
    """Return a schedule that has existed for hours and fired never: each of them was missed."""
    made = desk.add(misfire=Misfire.SKIP, **policies)
    desk.pass_time(3_600 * hours + 600)
    assert desk.turn() == 1
    return made


def _fire_on_time(desk: ScheduleDesk) -> None:
    """Let the first time after those fire."""
    desk.pass_time(3_000)
    assert desk.turn() == 1


def _backfill(desk: ScheduleDesk, made: str, **given: Any) -> Backfill:
    now = desk.now()
    wanted: dict[str, Any] = {"start": now - 100 * HOUR, "end": now} | given
    return desk.schedules.backfill(desk.core.actor, made, **wanted)


@pytest.mark.failure("S5")
def test_s5_a_backfill_makes_only_what_has_not_fired(desk: ScheduleDesk) -> None:
    """Of five hours three have fired: it makes two."""
    made = desk.add(misfire=Misfire.ALL, catch_up=2, overlap=Overlap.ALLOW)
    desk.pass_time(4 * 3_600 + 600)
    desk.turn()
    desk.pass_time(3_000)
    desk.turn()
    fired = {each.scheduled_at for each in desk.fires(made, FireStatus.STARTED)}
    assert len(fired) == 3
    shown = _backfill(desk, made, dry_run=True)
    assert len(desk.fires(made, FireStatus.WAITING)) == 0, "a preview makes none"
    done = _backfill(desk, made)
    assert (done.fires, len(done.fires), done.already) == (shown.fires, 2, 3)
    assert fired.isdisjoint(done.fires)
    for again in (_backfill(desk, made), _backfill(desk, made, dry_run=True)):
        assert (again.fires, again.already) == ((), 5), "those that wait count, too"
    desk.end_all()
    assert desk.start_waiting() == 1, "one after another"
    desk.end_all()
    assert desk.start_waiting() == 1
    assert _backfill(desk, made).fires == ()
    rows = [each for each in desk.fires(made) if each.kind is FireKind.BACKFILL]
    assert [(each.scheduled_at, each.status) for each in rows] == [
        (at, FireStatus.STARTED) for at in done.fires
    ]
    assert desk.core.count("executions") == 5
    trail = "SELECT count(*) FROM audit_logs WHERE action = 'schedule.backfill'"
    assert desk.scalar(trail) == 3


def test_its_fires_start_one_after_another_also_beside_the_policy(desk: ScheduleDesk) -> None:
    made = _past(desk, 3, overlap=Overlap.QUEUE)
    assert len(_backfill(desk, made).fires) == 3
    assert desk.start_waiting() == 1
    _fire_on_time(desk)
    assert desk.fires(made)[-1].status is FireStatus.WAITING, "a fire of the backfill runs"
    desk.end_all()
    assert desk.start_waiting() == 1
    assert desk.fires(made)[-1].status is FireStatus.STARTED, "before the rest of the backfill"
    for _ in range(2):
        desk.end_all()
        assert desk.start_waiting() == 1
    desk.end_all()
    assert desk.start_waiting() == 0


def test_with_allow_they_start_at_once_whatever_runs(desk: ScheduleDesk) -> None:
    made = _past(desk, 70)
    _fire_on_time(desk)
    assert len(_backfill(desk, made, overlap=Overlap.ALLOW).fires) == 70
    assert [desk.start_waiting(), desk.start_waiting(), desk.start_waiting()] == [50, 20, 0]
    assert desk.end_all() == 71


def test_it_starts_as_the_caller_and_also_while_the_schedule_is_paused(desk: ScheduleDesk) -> None:
    made = _past(desk, 1)
    desk.schedules.pause(desk.core.actor, made)
    colleague = make_colleague(desk.core.database, desk.core.actor)
    now = desk.now()
    desk.schedules.backfill(colleague, made, start=now - 9 * HOUR, end=now)
    assert desk.start_waiting() == 1
    (execution,) = desk.started(made)
    assert desk.core.get(execution).owner_id == colleague.user_id


def test_what_is_due_or_was_missed_in_a_pause_is_not_made_twice(desk: ScheduleDesk) -> None:
    made = _past(desk, 2)
    desk.schedules.change(desk.core.actor, made, {"misfire": Misfire.ALL})
    desk.schedules.pause(desk.core.actor, made)
    desk.pass_time(2 * 3_600)
    done = _backfill(desk, made)
    assert (len(done.fires), done.until) == (2, desk.get(made).next_fire_at)
    desk.schedules.resume(desk.core.actor, made, catch_up=True)
    desk.turn()
    times = [each.scheduled_at for each in desk.fires(made) if each.count == 1]
    happening = [
        each.scheduled_at for each in desk.fires(made) if each.status is not FireStatus.SKIPPED
    ]
    assert times
    assert len(happening) == len(set(happening)), "no time twice"


def test_a_time_that_was_backfilled_does_not_fire_again(desk: ScheduleDesk) -> None:
    """As after a clock that was set back."""
    made = _past(desk, 1)
    desk.core.execute("DELETE FROM schedule_fires")
    (at,) = _backfill(desk, made).fires
    desk.core.execute(
        "UPDATE schedules SET misfire = 'all', next_fire_at = :at, due_at = :at", at=at
    )
    desk.turn()
    assert [each.kind for each in desk.fires(made)] == [FireKind.BACKFILL]


def test_two_requests_at_once_make_each_once(desk: ScheduleDesk) -> None:
    made = _past(desk, 40)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: _backfill(desk, made), range(4)))
    assert sum(len(each.fires) for each in done) == 40
    assert len(desk.fires(made, FireStatus.WAITING)) == 40


def test_zones_and_changes_of_the_clock_are_those_of_the_schedule(desk: ScheduleDesk) -> None:
    made = desk.add(timing=Timing(cron="30 2 * * *", zone="Europe/Berlin"))
    start, end = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
    done = _backfill(desk, made, start=start, end=end, dry_run=True)
    assert [f"{each:%dT%H:%M}" for each in done.fires] == ["28T01:30", "29T01:00", "30T00:30"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"start": 1 * HOUR, "end": -1 * HOUR}, "to"),
        ({"start": 1 * HOUR, "end": 1 * HOUR}, "from"),
        ({"start": 1 * HOUR, "end": 2 * HOUR}, "from"),
        ({"start": 24 * 90 * HOUR, "end": 0 * HOUR}, "to"),
        ({"start": 24 * HOUR, "end": 0 * HOUR}, "to"),
        ({"start": 2 * HOUR, "end": 0 * HOUR, "overlap": Overlap.QUEUE}, "overlap"),
        ({"start": 2 * HOUR, "end": 0 * HOUR, "overlap": Overlap.CANCEL_RUNNING}, "overlap"),
        ({"start": 2 * HOUR, "end": 0 * HOUR, "overlap": Overlap.SKIP}, "overlap"),
    ],
)
def test_wrong_ranges_are_refused_before_anything_is_stored(
    desk: ScheduleDesk, given: dict[str, Any], field: str
) -> None:
    """Ninety days of minutes are more than are looked at; a day of them, more than may wait."""
    made = desk.add(timing=Timing(cron="* * * * *"))
    now = desk.now()
    wanted = given | {"start": now - given["start"], "end": now - given["end"]}
    with pytest.raises(InvalidInputError) as raised:
        desk.schedules.backfill(desk.core.actor, made, **wanted)
    assert raised.value.field == field
    assert desk.fires(made) == []


def test_the_error_says_where_to_end_the_range(desk: ScheduleDesk) -> None:
    made = desk.add(timing=Timing(cron="* * * * *"))
    end = desk.now().replace(second=0, microsecond=0)
    fits = end - timedelta(minutes=1_440 - MAX_WAITING)
    start = end - timedelta(minutes=1_440)
    with pytest.raises(InvalidInputError, match=fits.isoformat().replace("+", r"\+")):
        _backfill(desk, made, start=start, end=end)
    assert len(_backfill(desk, made, start=start, end=fits).fires) == MAX_WAITING
    with pytest.raises(ConflictError, match="1,000 fires of this schedule wait already"):
        _backfill(desk, made, start=fits, end=end)
    assert MAX_TIMES > MAX_WAITING


def test_what_can_not_start_is_refused_and_others_may_not(desk: ScheduleDesk) -> None:
    made = _past(desk, 2)
    now = desk.now()
    viewer = replace(desk.core.actor, role=Role.VIEWER)
    with pytest.raises(ForbiddenError):
        desk.schedules.backfill(viewer, made, start=now - HOUR, end=now)
    stranger = make_actor(desk.core.database)
    with pytest.raises(NotFoundError):
        desk.schedules.backfill(stranger, made, start=now - HOUR, end=now)
    Tasks(desk.core.database).delete(desk.core.actor, str(desk.core.task))
    with pytest.raises(NotFoundError):
        _backfill(desk, made)
    assert desk.fires(made, FireStatus.WAITING) == []


def test_a_pause_clears_a_backfill(desk: ScheduleDesk) -> None:
    made = _past(desk, 5)
    _backfill(desk, made)
    assert desk.start_waiting() == 1
    desk.schedules.pause(desk.core.actor, made)
    cleared = [each for each in desk.fires(made) if each.reason is SkipReason.PAUSED]
    assert len(cleared) == 4
    assert len(_backfill(desk, made).fires) == 4, "what was cleared can be made again"
    desk.schedules.pause(desk.core.actor, made)
    assert desk.fires(made, FireStatus.WAITING) == [], "also of a schedule that is paused"


def test_it_makes_runs_of_workflows(desk: ScheduleDesk) -> None:
    flow = desk.flows.define("flow", {"one": {"task": "a"}})
    made = _past(desk, 2, target=Target(None, flow, {}))
    _backfill(desk, made)
    for _ in range(2):
        assert desk.waiting(LIMIT) == 1
        desk.flows.keep()
    assert len([each for each in desk.fires(made) if each.run_id is not None]) == 2


def test_what_it_starts_knows_for_which_time(desk: ScheduleDesk) -> None:
    task = Target(desk.core.task, None, {"at": "${{ fire.scheduled_at }} ${{ fire.kind }}"})
    made = _past(desk, 2, target=task, overlap=Overlap.QUEUE)
    _backfill(desk, made)
    for _ in range(2):
        assert desk.start_waiting() == 1
        desk.end_all()
    _fire_on_time(desk)
    desk.schedules.run(desk.core.actor, made, force=True)
    found = [each for each in desk.fires(made) if each.execution_id is not None]
    assert [each.kind for each in found] == ["backfill", "backfill", "scheduled", "manual"]
    for each in found:
        assert each.execution_id is not None
        told = desk.core.get(each.execution_id).variables["at"]
        at, kind = str(told).split()
        assert kind == each.kind
        moved = datetime.fromisoformat(at) - each.scheduled_at
        # rows of before are moved as the time passes
        assert moved in {timedelta(0), timedelta(seconds=3_000)}
    with pytest.raises(InvalidInputError, match="a fire has no day"):
        desk.schedules.change(desk.core.actor, made, {"input": {"at": "${{ fire.day }}"}})
