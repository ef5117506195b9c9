"""Schedules on a real database: each fire once, whoever fires it and whatever happens meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import workspaces
from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
)
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.schedules.model import Fire, FireStatus, Schedule, SkipReason, Timing
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.schedules.fire import FireSchedules
from celeriac.services.schedules.manage import NewSchedule, Policies, Schedules
from celeriac.services.schedules.start import Start, Starter, Target
from tests.support.catalog import make_actor, make_colleague
from tests.support.core import LIMIT
from tests.support.workflows import Flows

pytestmark = [pytest.mark.requirement("A19"), pytest.mark.requirement("F17")]

HOURLY = Timing(every_seconds=3_600)


class Desk:
    """The services of schedules, and what tests ask of them."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.core = flows.core
        self.starter = Starter(self.core.submit, flows.runs)
        self.schedules = Schedules(self.core.database, self.starter, self.core.dispatch)
        self.keeper = FireSchedules(self.core.database, self.starter, self.core.dispatch)

    def add(
        self,
        name: str = "s",
        timing: Timing = HOURLY,
        target: Target | None = None,
        **policies: Any,
    ) -> str:
        """Create a schedule of the core's task, unless another target is given."""
        new = NewSchedule(
            name=name,
            target=target or Target(self.core.task, None, {"n": 1}),
            timing=timing,
            policies=Policies(**policies),
        )
        return str(self.schedules.create(self.core.actor, new).id)

    def get(self, schedule_id: str) -> Schedule:
        """Return a schedule."""
        return self.schedules.get(self.core.actor, schedule_id)

    def pass_time(self, seconds: float) -> None:
        """Let schedules be as old as after so many seconds."""
        self.core.execute(
            "UPDATE schedules SET next_fire_at = next_fire_at - make_interval(secs => :seconds),"
            " due_at = due_at - make_interval(secs => :seconds),"
            " anchor_at = anchor_at - make_interval(secs => :seconds)",
            seconds=seconds,
        )
        self.core.execute(
            "UPDATE schedule_fires"
            " SET scheduled_at = scheduled_at - make_interval(secs => :seconds)",
            seconds=seconds,
        )

    def turn(self) -> int:
        """Take one turn of the keeper."""
        return self.keeper(LIMIT)

    def fires(self, schedule_id: str, status: FireStatus | None = None) -> list[Fire]:
        """Return the fires of a schedule by their times."""
        page = self.schedules.fires(self.core.actor, schedule_id, status=status, limit=500)
        return sorted(page.items, key=lambda each: each.scheduled_at)

    def started(self, schedule_id: str) -> list[UUID]:
        """Return the executions that were started."""
        found = self.fires(schedule_id, FireStatus.STARTED)
        return [each.execution_id for each in found if each.execution_id is not None]

    def end_all(self) -> int:
        """Run what there is."""
        return self.flows.drive()


@pytest.fixture
def desk(flows: Flows) -> Desk:
    return Desk(flows)


def test_a_schedule_starts_its_task_when_it_is_due(desk: Desk) -> None:
    made = desk.add()
    assert desk.turn() == 0, "nothing is due"
    planned = desk.get(made).next_fire_at
    desk.pass_time(3_600)
    assert (desk.turn(), desk.turn()) == (1, 0)
    (fire,) = desk.fires(made)
    assert (fire.status, fire.reason, fire.count) == (FireStatus.STARTED, None, 1)
    assert fire.execution_id is not None
    found = desk.core.get(fire.execution_id)
    assert found.variables == {"n": 1}
    assert found.trigger_type is TriggerType.SCHEDULED
    assert found.owner_id == desk.core.actor.user_id
    assert desk.get(made).next_fire_at == planned, "an hour after the fire of the hour before"
    desk.core.assert_consistent()
    assert desk.end_all() == 1, "it was sent"


def test_a_schedule_starts_the_newest_version_of_its_workflow(desk: Desk) -> None:
    flow = desk.flows.define("brief", {"one": {"task": "a"}})
    made = desk.add(target=Target(None, flow, {}))
    newer = WorkflowSpec.model_validate({"steps": {"one": {"task": "a"}}, "priority": "high"})
    desk.flows.workflows.change(desk.core.actor, "brief", spec=newer)
    desk.pass_time(3_600)
    assert desk.turn() == 1
    (fire,) = desk.fires(made)
    assert fire.run_id is not None
    assert fire.execution_id is None
    desk.flows.keep()
    run = desk.flows.runs.get(desk.core.actor, fire.run_id)
    assert (run.status, run.trigger_type) == (RunStatus.COMPLETED, TriggerType.SCHEDULED)
    assert run.priority == newer.priority


def test_it_fires_once(desk: Desk) -> None:
    at = _now(desk) + timedelta(hours=1)
    made = desk.add(timing=Timing(at=at))
    desk.core.execute("UPDATE schedules SET at = now(), next_fire_at = now(), due_at = now()")
    assert (desk.turn(), desk.turn()) == (1, 0)
    assert len(desk.started(made)) == 1
    assert desk.get(made).next_fire_at is None


@pytest.mark.parametrize(
    ("misfire", "started"), [(Misfire.SKIP, 0), (Misfire.LATEST, 1), (Misfire.ALL, 3)]
)
def test_s6_three_days_away(desk: Desk, misfire: Misfire, started: int) -> None:
    made = desk.add(misfire=misfire, catch_up=3, overlap=Overlap.ALLOW)
    desk.pass_time(72 * 3_600 + 600)
    assert desk.turn() == 1
    assert len(desk.started(made)) == started
    (row,) = desk.fires(made, FireStatus.SKIPPED)
    assert (row.reason, row.count) == (SkipReason.MISSED, 72 - started)
    following = desk.get(made).next_fire_at
    assert following is not None
    assert following > _now(desk)
    assert desk.turn() == 0


def test_s8_a_fire_is_skipped_while_an_earlier_one_runs(desk: Desk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    desk.turn()
    desk.pass_time(3_600)
    assert desk.turn() == 1
    (row,) = desk.fires(made, FireStatus.SKIPPED)
    assert row.reason is SkipReason.OVERLAP
    by_hand = desk.schedules.run(desk.core.actor, made)
    assert (by_hand.status, by_hand.reason) == (FireStatus.SKIPPED, SkipReason.OVERLAP)
    forced = desk.schedules.run(desk.core.actor, made, force=True)
    assert forced.status is FireStatus.STARTED
    assert desk.end_all() == 2
    desk.pass_time(3_600)
    desk.turn()
    assert len(desk.started(made)) == 3
    left = "SELECT count(*) FROM schedule_fires WHERE open"
    assert _scalar(desk, left) == 1, "those that have ended are not looked at again"


def test_s8_with_allow_several_run(desk: Desk) -> None:
    made = desk.add(overlap=Overlap.ALLOW)
    for _ in range(3):
        desk.pass_time(3_600)
        desk.turn()
    assert len(desk.started(made)) == 3


def test_a_run_of_a_workflow_overlaps_until_it_has_ended(desk: Desk) -> None:
    flow = desk.flows.define("brief", {"one": {"task": "a"}})
    made = desk.add(target=Target(None, flow, {}))
    for _ in range(2):
        desk.pass_time(3_600)
        desk.turn()
    assert [each.status for each in desk.fires(made)] == [FireStatus.STARTED, FireStatus.SKIPPED]
    desk.flows.keep()
    desk.pass_time(3_600)
    desk.turn()
    assert len(desk.fires(made, FireStatus.STARTED)) == 2


def test_running_by_hand_does_not_shift_the_cadence(desk: Desk) -> None:
    made = desk.add()
    before = desk.get(made)
    fire = desk.schedules.run(desk.core.actor, made)
    assert fire.execution_id is not None
    assert desk.core.get(fire.execution_id).variables == {"n": 1}
    after = desk.get(made)
    assert (after.next_fire_at, after.due_at) == (before.next_fire_at, before.due_at)


def test_s4_a_pause_is_skipped_unless_it_is_made_up_for(desk: Desk) -> None:
    made = desk.add(overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=5)
    desk.schedules.pause(desk.core.actor, made)
    desk.pass_time(4 * 3_600)
    assert desk.turn() == 0
    desk.schedules.resume(desk.core.actor, made)
    (row,) = desk.fires(made)
    assert (row.reason, row.count) == (SkipReason.PAUSED, 4)
    assert desk.turn() == 0, "resuming fires nothing"

    desk.schedules.pause(desk.core.actor, made)
    desk.pass_time(4 * 3_600)
    desk.schedules.resume(desk.core.actor, made, catch_up=True)
    assert desk.turn() == 1
    assert len(desk.started(made)) == 4
    actions = "SELECT array_agg(DISTINCT action ORDER BY action) FROM audit_logs"
    assert _scalar(desk, f"{actions} WHERE resource_type = 'schedule'") == [
        "schedule.create",
        "schedule.pause",
        "schedule.resume",
    ]


def test_s3_another_timing_fires_nothing_at_once(desk: Desk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    changed = desk.schedules.change(desk.core.actor, made, {"every_seconds": 600})
    assert changed.next_fire_at is not None
    assert changed.next_fire_at > _now(desk)
    assert desk.turn() == 0
    daily = desk.schedules.change(
        desk.core.actor, made, {"cron": "40 5 * * *", "zone": "Europe/Berlin"}
    )
    assert (daily.every_seconds, daily.cron, daily.zone) == (None, "40 5 * * *", "Europe/Berlin")
    _, previewed = desk.schedules.preview(desk.core.actor, made, number=3)
    assert [(each.local.hour, each.local.minute) for each in previewed] == [(5, 40)] * 3
    assert previewed[0].at == daily.next_fire_at


def test_s2_a_removed_schedule_fires_no_more(desk: Desk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    desk.schedules.delete(desk.core.actor, made)
    assert desk.turn() == 0
    with pytest.raises(NotFoundError):
        desk.get(made)


def test_s2_a_change_after_the_look_of_a_keeper_wins(desk: Desk) -> None:
    """The keeper has read the schedule, and then somebody changes it."""
    made = desk.add()
    desk.pass_time(3_600)

    done: list[bool] = []

    def change_once() -> None:
        if not done:
            done.append(True)
            desk.schedules.change(desk.core.actor, made, {"input": {"n": 2}})

    keeper = _meddling(desk, before_claim=change_once)
    assert keeper(LIMIT) == 0, "it fires no old definition"
    assert keeper(LIMIT) == 1
    (execution,) = desk.started(made)
    assert desk.core.get(execution).variables == {"n": 2}


def test_s7_five_keepers_fire_each_once(desk: Desk) -> None:
    made = [
        desk.add(f"s{number}", overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=4)
        for number in range(10)
    ]
    desk.pass_time(4 * 3_600)
    keepers = [
        FireSchedules(desk.core.database, desk.starter, desk.core.dispatch) for _ in range(5)
    ]
    with ThreadPoolExecutor(5) as threads:
        taken = sum(threads.map(lambda keeper: keeper(LIMIT) + keeper(LIMIT), keepers))
    assert taken == len(made)
    for each in made:
        assert len(desk.started(each)) == 4
        assert len(desk.fires(each)) == 4
    assert desk.core.count("executions") == 40


def test_s7_a_keeper_that_dies_before_its_commit_loses_and_doubles_nothing(desk: Desk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    planned = desk.get(made)

    def die(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailableError):
        _meddling(desk, after_store=die)(LIMIT)
    assert desk.get(made) == planned
    assert desk.fires(made) == []
    assert desk.core.count("executions") == 0, "it went with the fire"
    assert desk.turn() == 1
    assert len(desk.started(made)) == 1
    assert desk.core.count("executions") == 1


def test_a_time_that_has_fired_does_not_fire_again(desk: Desk) -> None:
    """As after a restore, or a clock that was set back."""
    made = desk.add(overlap=Overlap.ALLOW)
    desk.pass_time(3_600)
    desk.turn()
    desk.core.execute(
        "UPDATE schedules SET next_fire_at = next_fire_at - interval '1 hour',"
        " due_at = due_at - interval '1 hour'"
    )
    assert desk.turn() == 1
    assert len(desk.fires(made)) == 1
    assert desk.core.count("executions") == 1


def test_what_can_not_start_is_a_row_with_the_reason(desk: Desk) -> None:
    made, other = desk.add("a"), desk.add("b", Timing(every_seconds=7_200))
    Tasks(desk.core.database).delete(desk.core.actor, str(desk.core.task))
    desk.pass_time(3_600)
    assert desk.turn() == 1
    (row,) = desk.fires(made)
    assert row.reason is SkipReason.REFUSED
    assert row.error is not None
    assert "There is no task" in row.error
    assert desk.fires(other) == []
    following = desk.get(made).next_fire_at
    assert following is not None
    assert following > _now(desk)


def test_a_fire_needs_the_rights_of_the_owner(desk: Desk) -> None:
    colleague = make_colleague(desk.core.database, desk.core.actor)
    new = NewSchedule(name="c", target=Target(desk.core.task, None, {}), timing=HOURLY)
    made = str(desk.schedules.create(colleague, new).id)
    with desk.core.database.transaction() as connection:
        workspaces.remove_member(connection, colleague.workspace_id, colleague.user_id)
    desk.pass_time(3_600)
    desk.turn()
    (row,) = desk.fires(made)
    assert row.reason is SkipReason.REFUSED
    assert row.error is not None
    assert "owner" in row.error
    assert desk.core.count("executions") == 0


def test_a_schedule_that_fails_delays_no_other_one(desk: Desk) -> None:
    broken = desk.add("a")
    made = desk.add("b")
    desk.pass_time(3_600)
    desk.core.execute("UPDATE schedules SET zone = 'Nowhere', cron = '* * * * *',"
                      " every_seconds = NULL WHERE id = :id", id=broken)  # fmt: skip
    assert desk.turn() == 1
    assert len(desk.started(made)) == 1


def test_names_are_unique_and_others_see_nothing(desk: Desk) -> None:
    made = desk.add("nightly")
    with pytest.raises(NameTakenError):
        desk.add("nightly")
    stranger = make_actor(desk.core.database)
    for call in _calls(desk, stranger, made):
        with pytest.raises(NotFoundError):
            call()
    assert list(desk.schedules.find(stranger).items) == []
    with pytest.raises(NotFoundError):
        Desk(desk.flows).schedules.create(
            stranger,
            NewSchedule(name="x", target=Target(desk.core.task, None, {}), timing=HOURLY),
        )


def test_an_input_that_does_not_fit_is_refused_before_it_is_stored(desk: Desk) -> None:
    flow = desk.flows.define(
        "strict", {"one": {"task": "a"}}, input={"type": "object", "required": ["url"]}
    )
    with pytest.raises(InvalidInputError):
        desk.add(target=Target(None, flow, {}))
    assert desk.core.count("schedules") == 0


def test_a_deleted_workspace_has_no_schedules(desk: Desk) -> None:
    desk.add()
    with desk.core.database.transaction() as connection:
        workspaces.end(connection, desk.core.actor.workspace_id)
    assert desk.core.count("schedules") == 0


def _calls(desk: Desk, actor: Actor, made: str) -> list[Callable[[], object]]:
    found = desk.schedules
    return [
        lambda: found.get(actor, made),
        lambda: found.change(actor, made, {"zone": "UTC"}),
        lambda: found.delete(actor, made),
        lambda: found.pause(actor, made),
        lambda: found.resume(actor, made),
        lambda: found.run(actor, made),
        lambda: found.preview(actor, made, number=1),
        lambda: found.fires(actor, made),
    ]


def _meddling(
    desk: Desk,
    *,
    before_claim: Callable[[], None] = lambda: None,
    after_store: Callable[[Connection], None] = lambda _: None,
) -> FireSchedules:
    """Return a keeper that is disturbed at two moments of its turn."""

    class Meddling(Starter):
        def prepare(self, actor: Actor, target: Target, *, fresh: bool = False) -> Start:
            start = super().prepare(actor, target, fresh=fresh)

            def store(connection: Connection) -> None:
                start.store(connection)
                after_store(connection)

            before_claim()
            return replace(start, store=store)

    starter = Meddling(desk.core.submit, desk.flows.runs)
    return FireSchedules(desk.core.database, starter, desk.core.dispatch)


def _now(desk: Desk) -> datetime:
    found: datetime = _scalar(desk, "SELECT clock_timestamp()")
    return found


def _scalar(desk: Desk, statement: str) -> Any:
    with desk.core.database.autocommit() as connection:
        return connection.execute(text(statement)).scalar_one()
