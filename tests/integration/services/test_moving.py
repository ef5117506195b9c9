"""Executions that have not ended are moved to another queue, one or many."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from celeriac.db.executions.change import move
from celeriac.domain.accounts import Role
from celeriac.domain.errors import ConflictError, ForbiddenError, NotFoundError
from celeriac.domain.executions.model import Completed, Failure, Retry, SubmitRequest
from celeriac.domain.executions.pauses import PauseScope
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from celeriac.kit.ids import uuid7
from celeriac.services.executions.change import Change
from tests.support.core import Core
from tests.support.pauses import pause, resume
from tests.support.together import together

pytestmark = pytest.mark.requirement("F15")

SPARE = "spare"
FAILURE = Failure("rate_limited", "Too many requests.")


def change(core: Core) -> Change:
    return Change(core.database, core.dispatch)


def taken(core: Core, queue: str) -> list[UUID]:
    """Return what is at the broker, in the order of the messages."""
    found = []
    while (envelope := core.queue.take(queue)) is not None:
        found.append(envelope.message.execution_id)
    return found


def test_a_pending_execution_is_sent_to_the_other_queue(core: Core) -> None:
    (execution_id,) = core.pending_many([{}])
    before = core.get(execution_id)

    after = change(core).move(core.actor, execution_id, SPARE)

    assert (after.status, after.queue, after.priority) == (Status.QUEUED, SPARE, before.priority)
    assert after.available_at == before.available_at, "it keeps its place"
    assert (taken(core, SPARE), taken(core, DEFAULT_QUEUE)) == ([execution_id], [])
    core.assert_consistent()


def test_the_message_in_the_old_queue_claims_nothing(core: Core) -> None:
    execution_id = core.queued()
    old = core.message(execution_id)

    after = change(core).move(core.actor, execution_id, SPARE)

    assert (after.status, after.queue) == (Status.QUEUED, SPARE)
    assert core.event_types(execution_id) == ["created", "queued", "unqueued", "queued"]
    assert core.events(execution_id)[2].data == {"reason": "moved"}
    assert core.claim(old) is None
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    assert (claim.queue, claim.lease.attempt) == (SPARE, 1)
    core.end(claim, Completed(1))
    core.assert_consistent()


def test_a_running_attempt_goes_on_and_its_retry_is_in_the_other_queue(core: Core) -> None:
    claim = core.running()
    execution_id = claim.lease.execution_id
    core.lose_messages()
    assert change(core).move(core.actor, execution_id, SPARE).status is Status.RUNNING
    core.end(claim, Retry(FAILURE, 0.0))
    core.dispatch.send_due()
    assert taken(core, SPARE) == [execution_id]
    core.assert_consistent()


def test_what_is_held_or_waits_stays_so(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, delay_seconds=60)
    later, waiting = core.submit(core.actor, request).execution_id, core.waiting()
    core.lose_messages()
    assert change(core).move(core.actor, later, SPARE).held is Held.TIME
    assert change(core).move(core.actor, waiting, SPARE).status is Status.WAITING
    core.answer(waiting)
    core.pass_time(61)
    core.dispatch.send_due()
    assert sorted(taken(core, SPARE)) == sorted([later, waiting])
    core.assert_consistent()


def test_work_is_moved_out_of_a_paused_queue(core: Core) -> None:
    sent = core.queued()
    (pending,) = core.pending_many([{}])
    pause(core, PauseScope.QUEUE)
    for each in (sent, pending):
        assert change(core).move(core.actor, each, SPARE).status is Status.QUEUED
    assert core.claim(core.message(sent)) is not None


def test_work_of_a_paused_task_stays_paused(core: Core) -> None:
    (execution_id,) = core.pending_many([{}])
    paused = pause(core, PauseScope.TASK)
    assert change(core).move(core.actor, execution_id, SPARE).held is Held.PAUSED
    resume(core, paused)
    assert taken(core, SPARE) == [execution_id]


def test_only_what_is_there_and_has_not_ended_is_moved(core: Core) -> None:
    claim = core.running()
    stranger = replace(core.actor, workspace_id=uuid7())
    with pytest.raises(NotFoundError):
        change(core).move(stranger, claim.lease.execution_id, SPARE)
    core.end(claim, Completed(1))
    with pytest.raises(ConflictError, match="is completed; only one that has not ended can be mov"):
        change(core).move(core.actor, claim.lease.execution_id, SPARE)
    viewer = replace(core.actor, role=Role.VIEWER)
    with pytest.raises(ForbiddenError):
        change(core).move_those(viewer, [uuid4()], SPARE)
    with pytest.raises(ForbiddenError):
        change(core).prioritise_those(viewer, [uuid4()], Priority.LOW)
    assert core.get(claim.lease.execution_id).queue == DEFAULT_QUEUE


def test_many_are_moved_together_and_audited_with_their_queues(core: Core) -> None:
    first, second = core.queued(), core.queued()
    there = core.submit(core.actor, SubmitRequest(task_id=core.task, queue=SPARE)).execution_id
    claim = core.running()
    core.end(claim, Completed(1))
    ids = [first, claim.lease.execution_id, there, second]
    assert change(core).move_those(core.actor, ids, SPARE) == [first, second]
    assert [core.status(each) for each in ids] == [
        Status.PENDING, Status.COMPLETED, Status.QUEUED, Status.PENDING,
    ]  # fmt: skip
    with core.database.autocommit() as connection:
        found = connection.exec_driver_sql(
            "SELECT resource_id, details FROM audit_logs WHERE action = 'execution.move'"
        ).all()
    assert {row[0]: row[1] for row in found} == {
        str(each): {"from": DEFAULT_QUEUE, "to": SPARE} for each in (first, second)
    }


def test_a_claim_and_a_move_at_once(core: Core) -> None:
    """Either the attempt runs and its retries go to the other queue, or it is sent there."""
    ids = [core.queued() for _ in range(6)]
    messages = [core.message(each) for each in ids]
    claiming = core.claiming()
    found = together(
        [
            *(lambda each=each: claiming(each, uuid4()) for each in messages),
            lambda: change(core).move_those(core.actor, ids, SPARE),
        ]
    )
    claims = {each.lease.execution_id for each in found[:6] if each is not None}
    for each in ids:
        execution = core.get(each)
        assert execution.queue == SPARE
        assert execution.status is (Status.RUNNING if each in claims else Status.PENDING)
    core.assert_consistent()


def test_a_cancellation_and_a_move_at_once(core: Core) -> None:
    ids = [core.queued() for _ in range(10)]
    together(
        [
            lambda: change(core).move_those(core.actor, ids, SPARE),
            lambda: core.cancel(core.actor, ids),
            lambda: change(core).prioritise_those(core.actor, ids, Priority.HIGH),
        ]
    )
    assert {core.status(each) for each in ids} == {Status.CANCELLED}
    core.assert_consistent()


def test_nothing_is_moved_without_ids(core: Core) -> None:
    with core.database.transaction() as connection:
        assert move(connection, [], SPARE) == {}
