"""Schedules on a real database: each fire once, whoever fires it and whatever happens meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

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
from celeriac.domain.schedules.model import FireStatus, SkipReason, Timing
from celeriac.domain.schedules.policies import Misfire, Overlap
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.schedules.start import Target
from celeriac.services.schedules.stored import NewSchedule
from tests.support.catalog import make_actor, make_colleague
from tests.support.core import LIMIT
from tests.support.schedules import HOURLY, ScheduleDesk, disturbed

pytestmark = [pytest.mark.requirement("A19"), pytest.mark.requirement("F17")]


def test_a_schedule_starts_its_task_when_it_is_due(desk: ScheduleDesk) -> None:
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


def test_a_schedule_starts_the_newest_version_of_its_workflow(desk: ScheduleDesk) -> None:
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


def test_it_fires_once(desk: ScheduleDesk) -> None:
    at = desk.now() + timedelta(hours=1)
    made = desk.add(timing=Timing(at=at))
    desk.core.execute("UPDATE schedules SET at = now(), next_fire_at = now(), due_at = now()")
    assert (desk.turn(), desk.turn()) == (1, 0)
    assert len(desk.started(made)) == 1
    assert desk.get(made).next_fire_at is None


@pytest.mark.failure("S6")
@pytest.mark.parametrize(
    ("misfire", "started"), [(Misfire.SKIP, 0), (Misfire.LATEST, 1), (Misfire.ALL, 3)]
)
def test_s6_three_days_away(desk: ScheduleDesk, misfire: Misfire, started: int) -> None:
    made = desk.add(misfire=misfire, catch_up=3, overlap=Overlap.ALLOW)
    desk.pass_time(72 * 3_600 + 600)
    assert desk.turn() == 1
    assert len(desk.started(made)) == started
    (row,) = desk.fires(made, FireStatus.SKIPPED)
    assert (row.reason, row.count) == (SkipReason.MISSED, 72 - started)
    following = desk.get(made).next_fire_at
    assert following is not None
    assert following > desk.now()
    assert desk.turn() == 0


@pytest.mark.failure("S8")
def test_s8_a_fire_is_skipped_while_an_earlier_one_runs(desk: ScheduleDesk) -> None:
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
    assert desk.scalar(left) == 1, "those that have ended are not looked at again"


@pytest.mark.failure("S8")
def test_s8_with_allow_several_run(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.ALLOW)
    for _ in range(3):
        desk.pass_time(3_600)
        desk.turn()
    assert len(desk.started(made)) == 3


def test_a_run_of_a_workflow_overlaps_until_it_has_ended(desk: ScheduleDesk) -> None:
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


def test_running_by_hand_does_not_shift_the_cadence(desk: ScheduleDesk) -> None:
    made = desk.add()
    before = desk.get(made)
    fire = desk.schedules.run(desk.core.actor, made)
    assert fire.execution_id is not None
    assert desk.core.get(fire.execution_id).variables == {"n": 1}
    after = desk.get(made)
    assert (after.next_fire_at, after.due_at) == (before.next_fire_at, before.due_at)


@pytest.mark.failure("S4")
def test_s4_a_pause_is_skipped_unless_it_is_made_up_for(desk: ScheduleDesk) -> None:
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
    assert desk.scalar(f"{actions} WHERE resource_type = 'schedule'") == [
        "schedule.create",
        "schedule.pause",
        "schedule.resume",
    ]


@pytest.mark.failure("S3")
def test_s3_another_timing_fires_nothing_at_once(desk: ScheduleDesk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    changed = desk.schedules.change(desk.core.actor, made, {"every_seconds": 600})
    assert changed.next_fire_at is not None
    assert changed.next_fire_at > desk.now()
    assert desk.turn() == 0
    daily = desk.schedules.change(
        desk.core.actor, made, {"cron": "40 5 * * *", "zone": "Europe/Berlin"}
    )
    assert (daily.every_seconds, daily.cron, daily.zone) == (None, "40 5 * * *", "Europe/Berlin")
    _, previewed = desk.schedules.preview(desk.core.actor, made, number=3)
    assert [(each.local.hour, each.local.minute) for each in previewed] == [(5, 40)] * 3
    assert previewed[0].at == daily.next_fire_at


@pytest.mark.failure("S2")
def test_s2_a_removed_schedule_fires_no_more(desk: ScheduleDesk) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    desk.schedules.delete(desk.core.actor, made)
    assert desk.turn() == 0
    with pytest.raises(NotFoundError):
        desk.get(made)


@pytest.mark.failure("S2")
def test_s2_a_change_after_the_look_of_a_keeper_wins(desk: ScheduleDesk) -> None:
    """The keeper has read the schedule, and then somebody changes it."""
    made = desk.add()
    desk.pass_time(3_600)

    done: list[bool] = []

    def change_once() -> None:
        if not done:
            done.append(True)
            desk.schedules.change(desk.core.actor, made, {"input": {"n": 2}})

    keeper = disturbed(desk, before_claim=change_once)
    assert keeper(LIMIT) == 0, "it fires no old definition"
    assert keeper(LIMIT) == 1
    (execution,) = desk.started(made)
    assert desk.core.get(execution).variables == {"n": 2}


@pytest.mark.failure("S7")
def test_s7_five_keepers_fire_each_once(desk: ScheduleDesk) -> None:
    made = [
        desk.add(f"s{number}", overlap=Overlap.ALLOW, misfire=Misfire.ALL, catch_up=4)
        for number in range(10)
    ]
    desk.pass_time(4 * 3_600)
    keepers = [desk.another_keeper() for _ in range(5)]
    with ThreadPoolExecutor(5) as threads:
        taken = sum(threads.map(lambda keeper: keeper(LIMIT) + keeper(LIMIT), keepers))
    assert taken == len(made)
    for each in made:
        assert len(desk.started(each)) == 4
        assert len(desk.fires(each)) == 4
    assert desk.core.count("executions") == 40


@pytest.mark.failure("S7")
def test_s7_a_keeper_that_dies_before_its_commit_changes_nothing(
    desk: ScheduleDesk,
) -> None:
    made = desk.add()
    desk.pass_time(3_600)
    planned = desk.get(made)

    def die(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailableError):
        disturbed(desk, after_store=die)(LIMIT)
    assert desk.get(made) == planned
    assert desk.fires(made) == []
    assert desk.core.count("executions") == 0, "it went with the fire"
    assert desk.turn() == 1
    assert len(desk.started(made)) == 1
    assert desk.core.count("executions") == 1


def test_a_time_that_has_fired_does_not_fire_again(desk: ScheduleDesk) -> None:
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


def test_what_can_not_start_is_a_row_with_the_reason(desk: ScheduleDesk) -> None:
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
    assert following > desk.now()


def test_a_fire_needs_the_rights_of_the_owner(desk: ScheduleDesk) -> None:
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


def test_a_schedule_that_fails_delays_no_other_one(desk: ScheduleDesk) -> None:
    broken = desk.add("a")
    made = desk.add("b")
    desk.pass_time(3_600)
    desk.core.execute("UPDATE schedules SET zone = 'Nowhere', cron = '* * * * *',"
                      " every_seconds = NULL WHERE id = :id", id=broken)  # fmt: skip
    assert desk.turn() == 1
    assert len(desk.started(made)) == 1


def test_names_are_unique_and_others_see_nothing(desk: ScheduleDesk) -> None:
    made = desk.add("nightly")
    with pytest.raises(NameTakenError):
        desk.add("nightly")
    stranger = make_actor(desk.core.database)
    for call in _calls(desk, stranger, made):
        with pytest.raises(NotFoundError):
            call()
    assert list(desk.schedules.find(stranger).items) == []
    with pytest.raises(NotFoundError):
        ScheduleDesk(desk.flows).schedules.create(
            stranger,
            NewSchedule(name="x", target=Target(desk.core.task, None, {}), timing=HOURLY),
        )


def test_an_input_that_does_not_fit_is_refused_before_it_is_stored(desk: ScheduleDesk) -> None:
    flow = desk.flows.define(
        "strict", {"one": {"task": "a"}}, input={"type": "object", "required": ["url"]}
    )
    with pytest.raises(InvalidInputError):
        desk.add(target=Target(None, flow, {}))
    assert desk.core.count("schedules") == 0


def test_a_deleted_workspace_has_no_schedules(desk: ScheduleDesk) -> None:
    desk.add()
    with desk.core.database.transaction() as connection:
        workspaces.end(connection, desk.core.actor.workspace_id)
    assert desk.core.count("schedules") == 0


def _calls(desk: ScheduleDesk, actor: Actor, made: str) -> list[Callable[[], object]]:
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
