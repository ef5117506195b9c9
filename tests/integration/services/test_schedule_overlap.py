"""Fires of schedules that are due while an earlier one has not ended."""

from typing import Any

import pytest

from celeriac.db import workspaces
from celeriac.domain.executions.model import Stopped
from celeriac.domain.executions.states import Status
from celeriac.domain.schedules.model import FireKind, FireStatus, SkipReason
from celeriac.domain.schedules.policies import MAX_WAITING, Misfire, Overlap, Policies
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.schedules.start import Target
from celeriac.services.schedules.stored import NewSchedule
from tests.support.catalog import make_colleague
from tests.support.core import LIMIT
from tests.support.schedules import HOURLY, ScheduleDesk

pytestmark = pytest.mark.requirement("F17")

STARTED = (FireStatus.STARTED, None)
WAITING = (FireStatus.WAITING, None)
OVERLAPS = (FireStatus.SKIPPED, SkipReason.OVERLAP)


@pytest.fixture(params=["task", "workflow"])
def target(request: pytest.FixtureRequest, desk: ScheduleDesk) -> Target:
    """A task, or a workflow of one step."""
    if request.param == "task":
        return Target(desk.core.task, None, {"n": 1})
    return Target(None, desk.flows.define("flow", {"one": {"task": "a"}}), {})


def test_with_queue_one_waits(desk: ScheduleDesk, target: Target) -> None:
    made = desk.add(overlap=Overlap.QUEUE, target=target)
    for _ in range(3):
        desk.next()
    assert desk.outcomes(made) == [STARTED, WAITING, OVERLAPS]
    assert desk.start_waiting() == 0, "the first has not ended"
    desk.flows.keep()
    assert (desk.start_waiting(), desk.start_waiting()) == (1, 0)
    assert desk.outcomes(made) == [STARTED, STARTED, OVERLAPS]
    waited = desk.fires(made)[1]
    assert (waited.execution_id or waited.run_id) is not None
    assert waited.started_at is not None
    assert waited.started_at > waited.created_at
    desk.next()
    assert desk.outcomes(made)[-1] == WAITING, "the one that has waited runs"
    desk.flows.keep()
    assert desk.start_waiting() == 1
    desk.flows.keep()
    desk.core.assert_consistent()
    desk.next()
    assert desk.outcomes(made)[-1] == STARTED, "nothing is under way"


def test_with_queue_all_each_waits_for_the_one_before(desk: ScheduleDesk, target: Target) -> None:
    made = desk.add(overlap=Overlap.QUEUE_ALL, target=target)
    for _ in range(4):
        desk.next()
    assert desk.outcomes(made) == [STARTED, WAITING, WAITING, WAITING]
    for started in (2, 3, 4):
        desk.flows.keep()
        assert desk.start_waiting() == 1
        assert desk.outcomes(made) == [STARTED] * started + [WAITING] * (4 - started)
        assert desk.start_waiting() == 0


def test_with_cancel_running_the_new_one_starts_after_the_end_of_the_old(
    desk: ScheduleDesk, target: Target
) -> None:
    made = desk.add(overlap=Overlap.CANCEL_RUNNING, target=target)
    desk.next()
    claim = desk.flows.take() if target.task_id else None
    desk.next()
    assert desk.outcomes(made) == [STARTED, WAITING]
    assert desk.start_waiting() == 0
    first = desk.fires(made)[0]
    if claim is not None:
        assert first.execution_id is not None
        found = desk.core.get(first.execution_id)
        assert (found.status, found.cancel_requested_by) == (Status.RUNNING, "schedule")
        assert desk.start_waiting() == 0, "it has not ended"
        desk.core.end(claim, Stopped())
        assert desk.core.status(first.execution_id) is Status.CANCELLED
    else:
        assert first.run_id is not None
        desk.flows.keep()
        assert desk.flows.ran(first.run_id).status is RunStatus.CANCELLED
    assert desk.start_waiting() == 1
    assert desk.outcomes(made) == [STARTED, STARTED]
    entries = "SELECT count(*) FROM audit_logs WHERE action LIKE '%.cancel' AND actor = 'schedule'"
    assert desk.scalar(entries) == 1, "what is being cancelled is not cancelled again"


def test_what_waits_holds_up_no_other_schedule(desk: ScheduleDesk) -> None:
    """Each schedule waits for what it has started itself."""
    one, two = (desk.add(name, overlap=Overlap.QUEUE) for name in ("one", "two"))
    for _ in range(2):
        desk.pass_time(3_600)
        assert desk.turn() == 2
    (first,) = desk.started(one)
    desk.core.cancel(desk.core.actor, [first])
    assert desk.start_waiting() == 1
    assert desk.outcomes(one) == [STARTED, STARTED]
    assert desk.outcomes(two) == [STARTED, WAITING]


def test_all_schedules_get_their_look_whatever_the_limit(desk: ScheduleDesk) -> None:
    made = [desk.add(f"s{number}", overlap=Overlap.QUEUE) for number in range(5)]
    for _ in range(2):
        desk.pass_time(3_600)
        assert desk.turn() == 5
    for each in desk.started(made[-1]):
        desk.core.cancel(desk.core.actor, [each])
    assert sum(desk.waiting(2) for _ in range(3)) == 1
    assert desk.outcomes(made[-1]) == [STARTED, STARTED]


def test_two_keepers_start_what_waits_once(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE_ALL)
    for _ in range(3):
        desk.next()
    desk.end_all()
    another = desk.another_waiting()
    assert desk.waiting(LIMIT) + another(LIMIT) == 1
    assert desk.outcomes(made) == [STARTED, STARTED, WAITING]


@pytest.mark.failure("S5")
def test_s5_a_pause_clears_what_waits_and_nothing_overlaps_after_it(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE_ALL)
    for _ in range(3):
        desk.next()
    desk.schedules.pause(desk.core.actor, made)
    skipped = (FireStatus.SKIPPED, SkipReason.PAUSED)
    assert desk.outcomes(made) == [STARTED, skipped, skipped]
    desk.schedules.resume(desk.core.actor, made)
    desk.next()
    assert desk.outcomes(made)[-1] == WAITING, "the first has not ended yet"
    desk.end_all()
    assert desk.start_waiting() == 1


def test_a_deleted_schedule_starts_nothing_that_waits(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE)
    desk.add("other", overlap=Overlap.QUEUE)
    for _ in range(2):
        desk.pass_time(3_600)
        desk.turn()
    desk.schedules.delete(desk.core.actor, made)
    desk.end_all()
    assert desk.start_waiting() == 1, "the other one"
    assert desk.scalar("SELECT count(*) FROM schedule_fires WHERE reason = 'deleted'") == 1
    desk.next()
    with desk.core.database.transaction() as connection:
        workspaces.end(connection, desk.core.actor.workspace_id)
    assert desk.scalar("SELECT count(*) FROM schedule_fires WHERE reason = 'deleted'") == 2
    assert desk.scalar("SELECT count(*) FROM schedule_fires WHERE status = 'waiting'") == 0


def test_by_hand_it_waits_too_and_starts_as_who_has_asked(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE)
    desk.next()
    colleague = make_colleague(desk.core.database, desk.core.actor)
    fire = desk.schedules.run(colleague, made)
    assert (fire.status, fire.kind, fire.owner_id) == (
        FireStatus.WAITING, FireKind.MANUAL, colleague.user_id
    )  # fmt: skip
    forced = desk.schedules.run(colleague, made, force=True)
    assert forced.status is FireStatus.STARTED
    desk.end_all()
    assert desk.start_waiting() == 1
    (waited,) = [each for each in desk.fires(made) if each.id == fire.id]
    assert waited.execution_id is not None
    assert desk.core.get(waited.execution_id).owner_id == colleague.user_id


def test_what_waits_is_refused_when_it_can_not_start_any_more(desk: ScheduleDesk) -> None:
    colleague = make_colleague(desk.core.database, desk.core.actor)
    target = Target(desk.core.task, None, {})
    for name, overlap in (("a", Overlap.QUEUE), ("b", Overlap.CANCEL_RUNNING)):
        new = NewSchedule(name=name, target=target, timing=HOURLY, policies=Policies(overlap))
        desk.schedules.create(colleague, new)
    for _ in range(2):
        desk.pass_time(3_600)
        desk.turn()
    with desk.core.database.transaction() as connection:
        workspaces.remove_member(connection, colleague.workspace_id, colleague.user_id)
    assert desk.start_waiting() == 0
    assert _reasons(desk, "b") == [None, SkipReason.REFUSED], "and nothing is cancelled"
    assert _reasons(desk, "a") == [None, None], "it waits"
    desk.end_all()
    assert desk.start_waiting() == 0
    assert _reasons(desk, "a") == [None, SkipReason.REFUSED]

    made = desk.add("c", overlap=Overlap.QUEUE)
    for _ in range(2):
        desk.pass_time(3_600)
        desk.turn()
    desk.end_all()
    Tasks(desk.core.database).delete(desk.core.actor, str(desk.core.task))
    assert desk.start_waiting() == 0
    (row,) = desk.fires(made, FireStatus.SKIPPED)
    assert row.reason is SkipReason.REFUSED
    assert row.error is not None
    assert "There is no task" in row.error


@pytest.mark.failure("S2")
def test_s2_what_has_waited_starts_the_newest_definition(desk: ScheduleDesk) -> None:
    made = desk.add(overlap=Overlap.QUEUE)
    for _ in range(2):
        desk.next()
    desk.schedules.change(desk.core.actor, made, {"input": {"n": 2}})
    desk.end_all()
    assert desk.start_waiting() == 1
    assert [desk.core.get(each).variables["n"] for each in desk.started(made)] == [1, 2]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (Overlap.SKIP, [STARTED, OVERLAPS, OVERLAPS]),
        (Overlap.ALLOW, [STARTED, STARTED, STARTED]),
        (Overlap.QUEUE, [STARTED, WAITING, OVERLAPS]),
        (Overlap.QUEUE_ALL, [STARTED, WAITING, WAITING]),
        (Overlap.CANCEL_RUNNING, [STARTED, WAITING, OVERLAPS]),
    ],
)
def test_fires_of_one_turn_obey_the_policy_among_themselves(
    desk: ScheduleDesk, overlap: Overlap, expected: Any
) -> None:
    made = desk.add(overlap=overlap, misfire=Misfire.ALL, catch_up=3)
    desk.pass_time(3 * 3_600)
    assert desk.turn() == 1
    assert desk.outcomes(made) == expected


def test_at_most_so_many_wait(desk: ScheduleDesk) -> None:
    desk.add(overlap=Overlap.QUEUE_ALL)
    desk.next()
    desk.core.execute(
        "INSERT INTO schedule_fires (id, workspace_id, schedule_id, owner_id, kind, scheduled_at,"
        " overlap, status)"
        " SELECT gen_random_uuid(), workspace_id, schedule_id, owner_id, 'scheduled',"
        " scheduled_at - make_interval(secs => n), overlap, 'waiting'"
        " FROM schedule_fires, generate_series(1, :most) AS n",
        most=MAX_WAITING,
    )
    desk.next()
    assert desk.scalar("SELECT count(*) FROM schedule_fires WHERE reason = 'overlap'") == 1


def _reasons(desk: ScheduleDesk, name: str) -> list[SkipReason | None]:
    return [each.reason for each in desk.fires(name)]
