"""Who may run next: submit, dispatch and the claim of the next execution follow one rule."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db.executions import lifecycle
from celeriac.domain.executions.model import Claim, Completed, Failure, Retry, SubmitRequest
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from tests.support.core import Core, report_worker
from tests.support.together import together
from tests.support.waiting import wait_until

OTHER = "other"

# queue, priority, seconds since it was due (negative: until it is due)
ROWS = [
    (DEFAULT_QUEUE, Priority.NORMAL, 10),
    (DEFAULT_QUEUE, Priority.CRITICAL, -60),
    (OTHER, Priority.CRITICAL, 90),
    (DEFAULT_QUEUE, Priority.LOW, 100),
    (DEFAULT_QUEUE, Priority.NORMAL, 30),
    (DEFAULT_QUEUE, Priority.NORMAL, -5),
    (DEFAULT_QUEUE, Priority.HIGH, 1),
    (OTHER, Priority.LOW, 5),
    (DEFAULT_QUEUE, Priority.NORMAL, 20),
    (OTHER, Priority.NORMAL, -1000),
]
ORDER = {DEFAULT_QUEUE: (6, 4, 8, 0, 3), OTHER: (2, 7)}
"""The places in `ROWS` of what is due, in the order in which it should run."""


def stored(core: Core) -> list[UUID]:
    """Store `ROWS`, and return their ids."""
    ids = []
    for queue, priority, age in ROWS:
        request = SubmitRequest(
            task_id=core.task, queue=queue, priority=priority, delay_seconds=max(-age, 0)
        )
        execution_id = core.submit.batch(core.actor, request, [{}]).execution_ids[0]
        ids.append(execution_id)
        if age > 0:
            age_it(core, execution_id, age)
    return ids


def age_it(core: Core, execution_id: UUID, seconds: float) -> None:
    core.execute(
        "UPDATE executions SET available_at = now() - make_interval(secs => :age) WHERE id = :id",
        age=seconds,
        id=execution_id,
    )


def running(core: Core, queue: str, priority: Priority = Priority.NORMAL) -> Claim:
    """Submit an execution while nothing waits, and claim it."""
    core.submit(core.actor, SubmitRequest(task_id=core.task, queue=queue, priority=priority))
    envelope = core.queue.take(queue)
    assert envelope is not None
    claim = core.claim(envelope.message)
    assert claim is not None
    return claim


def claimed(core: Core, claim: Claim) -> list[UUID]:
    """End `claim` and whatever is claimed by that; return what was claimed, in order."""
    order = []
    following: Claim | None = claim
    while following is not None:
        turn = core.next_claim(queue=following.queue)
        following = core.finish(following, Completed(1), (), turn).claim
        if following is not None:
            order.append(following.lease.execution_id)
    return order


@pytest.mark.parametrize("queue", ORDER)
def test_a_worker_claims_in_the_order_of_the_rule(core: Core, queue: str) -> None:
    claim = running(core, queue)
    ids = stored(core)
    assert claimed(core, claim) == [ids[place] for place in ORDER[queue]]


@pytest.mark.parametrize("queue", ORDER)
def test_the_keeper_sends_in_the_order_of_the_rule(core: Core, queue: str) -> None:
    report_worker(core, 1, queue)
    ids = stored(core)
    order = []
    while core.dispatch.send_due():
        while (envelope := core.queue.take(queue)) is not None:
            order.append(envelope.message.execution_id)
            core.claim(envelope.message)
    assert order == [ids[place] for place in ORDER[queue]]


@pytest.mark.parametrize("queue", ORDER)
@pytest.mark.parametrize("priority", Priority)
def test_a_new_execution_is_sent_if_it_would_be_the_first(
    core: Core, queue: str, priority: Priority
) -> None:
    stored(core)
    request = SubmitRequest(task_id=core.task, queue=queue, priority=priority)
    most_urgent = max(ROWS[place][1] for place in ORDER[queue])
    expected = Status.QUEUED if priority > most_urgent else Status.PENDING
    assert core.submit(core.actor, request).status is expected


def test_many_workers_claim_in_the_order_of_the_rule_and_each_row_once(core: Core) -> None:
    report_worker(core, 4, DEFAULT_QUEUE)
    claims = [running(core, DEFAULT_QUEUE, Priority.CRITICAL) for _ in range(4)]
    ids = [row for priority in Priority for row in _batch(core, priority, 10)]
    orders: Sequence[list[UUID]] = together([partial(claimed, core, claim) for claim in claims])
    assert sorted(each for order in orders for each in order) == sorted(ids)
    for order in orders:
        assert order == sorted(order, key=lambda each: -(ids.index(each) // 10)), "it overtook one"
    core.assert_consistent()


def _batch(core: Core, priority: Priority, count: int) -> Sequence[UUID]:
    request = SubmitRequest(task_id=core.task, priority=priority)
    return core.submit.batch(core.actor, request, [{}] * count).execution_ids


def test_what_another_transaction_holds_is_passed_over_without_waiting(core: Core) -> None:
    """It is being sent, claimed or cancelled; it still stands before what comes later."""
    claim = running(core, DEFAULT_QUEUE)
    first, second = _batch(core, Priority.NORMAL, 2)
    age_it(core, first, 5)
    with core.database.transaction() as connection:
        lock = text("SELECT FROM executions WHERE id = :id FOR UPDATE")
        connection.execute(lock, {"id": first})
        finished = core.finish(claim, Completed(1), (), core.next_claim())
        assert finished.claim is not None
        assert finished.claim.lease.execution_id == second
        assert core.dispatch.send_due() == 0
        request = SubmitRequest(task_id=core.task)
        assert core.submit(core.actor, request).status is Status.PENDING
    assert core.dispatch.send_due() == 2
    envelope = core.queue.take(DEFAULT_QUEUE)
    assert envelope is not None
    assert envelope.message.execution_id == first


def test_no_new_execution_is_claimed_before_what_was_stored_before_it(core: Core) -> None:
    """Whatever keepers, workers and clients do at the same time."""
    report_worker(core, 4, DEFAULT_QUEUE)
    claims = [running(core, DEFAULT_QUEUE, Priority.CRITICAL) for _ in range(3)]
    old = set(_batch(core, Priority.NORMAL, 40))

    def submit() -> None:
        for _ in range(10):
            core.submit(core.actor, SubmitRequest(task_id=core.task, priority=Priority.NORMAL))

    works = [partial(claimed, core, claim) for claim in claims]
    done = together([*works, submit, submit, core.dispatch.send_due, core.dispatch.send_due])
    for order in done[: len(works)]:
        assert order == sorted(order, key=lambda each: each not in old), "a new one overtook"
    core.assert_consistent()


def test_what_is_due_later_is_held_and_released_in_order_a_few_at_a_time(core: Core) -> None:
    ids = [_delayed(core, seconds) for seconds in (30, 10, 20, 3600)]
    assert {core.get(each).held for each in ids} == {Held.TIME}
    assert _release(core, limit=10) == 0, "nothing is due"
    core.pass_time(60)
    before = core.get(ids[1])
    assert _release(core, limit=2) == 2
    assert [core.get(each).held for each in ids] == [Held.TIME, None, None, Held.TIME]
    assert core.get(ids[1]) == replace(before, held=None), "it has lost its place"
    assert (_release(core, limit=2), _release(core, limit=2)) == (1, 0)
    core.assert_consistent()


def test_a_keeper_that_stood_still_sends_all_that_became_due_meanwhile(core: Core) -> None:
    ids = [_delayed(core, seconds) for seconds in (300, 200, 100)]
    core.pass_time(86_400)
    assert core.dispatch.send_due() == 3
    sent = [core.queue.take(DEFAULT_QUEUE) for _ in ids]
    assert [each and each.message.execution_id for each in sent] == ids[::-1]


def test_what_was_released_waits_again_if_the_clock_is_set_back(core: Core) -> None:
    execution_id = _delayed(core, 10)
    core.pass_time(11)
    assert _release(core, limit=10) == 1
    core.pass_time(-60)
    assert core.dispatch.send_due() == 0
    assert core.submit(core.actor, SubmitRequest(task_id=core.task)).status is Status.QUEUED
    core.pass_time(60)
    assert core.dispatch.send_due() == 1
    assert core.status(execution_id) is Status.QUEUED


def test_many_keepers_release_each_execution_once(core: Core) -> None:
    for _ in range(30):
        _delayed(core, 1)
    core.pass_time(2)
    assert sum(together([partial(_release, core, limit=10)] * 6)) == 30
    core.assert_consistent()


def test_a_locked_row_holds_no_release_up(core: Core) -> None:
    first, second = _delayed(core, 1), _delayed(core, 2)
    core.pass_time(5)
    with core.database.transaction() as connection:
        lock = text("SELECT FROM executions WHERE id = :id FOR UPDATE")
        connection.execute(lock, {"id": first})
        assert _release(core, limit=10) == 1
    assert (core.get(first).held, core.get(second).held) == (Held.TIME, None)


def test_a_retry_without_a_delay_is_claimed_at_once_and_one_with_a_short_delay_when_it_is_due(
    core: Core,
) -> None:
    at_once, shortly = running(core, DEFAULT_QUEUE), running(core, DEFAULT_QUEUE)
    failure = Failure("agent_failed", "it failed")
    core.end(at_once, Retry(failure, 0.0))
    core.end(shortly, Retry(failure, 0.001))
    assert core.get(shortly.lease.execution_id).held is Held.TIME
    assert core.get(at_once.lease.execution_id).held is None
    wait_until(lambda: core.dispatch.send_due() == 0 and _sent(core, shortly), "it is sent")
    assert _sent(core, at_once)


def _sent(core: Core, claim: Claim) -> bool:
    return core.status(claim.lease.execution_id) is Status.QUEUED


def _delayed(core: Core, seconds: float) -> UUID:
    request = SubmitRequest(task_id=core.task, delay_seconds=seconds)
    return core.submit(core.actor, request).execution_id


def _release(core: Core, *, limit: int) -> int:
    with core.database.autocommit() as connection:
        return lifecycle.release_due(connection, limit=limit)
