"""Ends and claims of several attempts in one statement."""

from uuid import UUID, uuid4

import pytest

from celeriac.db.executions import lifecycle
from celeriac.db.executions.lifecycle import Ending, MoreClaims
from celeriac.domain.errors import LeaseExpiredError
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Lease,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE
from tests.support.core import Core
from tests.support.outages import holding

FAILURE = Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1})
ENDS: list[tuple[Ending, Status, str]] = [
    (Completed({"n": 1}), Status.COMPLETED, "completed"),
    (Failed(FAILURE), Status.FAILED, "failed"),
    (Stopped(), Status.CANCELLED, "cancelled"),
    (Retry(FAILURE, 2.0), Status.PENDING, "retry_scheduled"),
    (HandedBack(), Status.PENDING, "handed_back"),
]


def running(core: Core, count: int) -> list[Claim]:
    return [core.running() for _ in range(count)]


def more(core: Core, claim: Claim, count: int) -> MoreClaims:
    return MoreClaims(core.worker("w"), [uuid4() for _ in range(count)], [claim.agent_version_id])


def end(
    core: Core, claims: list[Claim], outcome: Ending, more: MoreClaims | None = None
) -> tuple[dict[UUID, Status], list[Claim]]:
    with core.database.autocommit() as connection:
        done = lifecycle.finish_group(
            connection,
            [lifecycle.end_values(each.lease, outcome) for each in claims],
            DEFAULT_QUEUE,
            more,
        )
    return dict(done.status), list(done.claims)


@pytest.mark.parametrize(("outcome", "status", "event"), ENDS, ids=str)
def test_ends_are_written_together_with_their_events(
    core: Core, outcome: Ending, status: Status, event: str
) -> None:
    claims = running(core, 3)
    stored, claimed = end(core, claims, outcome)
    assert stored == {each.lease.execution_id: status for each in claims}
    assert claimed == []
    for each in claims:
        execution = core.get(each.lease.execution_id)
        assert execution.status is status
        assert core.event_types(execution.id) == ["created", "queued", "started", event]
    core.assert_consistent()


def test_each_gets_its_own_result(core: Core) -> None:
    claims = running(core, 3)
    with core.database.autocommit() as connection:
        lifecycle.finish_group(
            connection,
            [lifecycle.end_values(each.lease, Completed(n)) for n, each in enumerate(claims)],
        )
    assert [core.get(each.lease.execution_id).result for each in claims] == [0, 1, 2]


def test_who_lost_the_lease_is_left_out_and_the_others_are_stored(core: Core) -> None:
    first, second, third = running(core, 3)
    lost = Claim(
        Lease(second.lease.execution_id, second.lease.attempt, uuid4()),
        *(getattr(second, name) for name in list(Claim.__dataclass_fields__)[1:]),
    )
    stored, _ = end(core, [first, lost, third], Completed(1))
    assert set(stored) == {first.lease.execution_id, third.lease.execution_id}
    assert core.status(second.lease.execution_id) is Status.RUNNING
    again, _ = end(core, [first, second, third], Completed(2))
    assert set(again) == {second.lease.execution_id}, "an end was written twice"
    assert core.get(first.lease.execution_id).result == 1
    core.assert_consistent()


def test_a_locked_row_does_not_hold_up_the_others(core: Core) -> None:
    first, second = running(core, 2)
    locked = f"SELECT id FROM executions WHERE id = '{first.lease.execution_id}' FOR UPDATE"
    with holding(core.database.engine.url, locked):
        stored, _ = end(core, [first, second], Completed(1))
    assert set(stored) == {second.lease.execution_id}
    assert core.status(first.lease.execution_id) is Status.RUNNING


@pytest.mark.parametrize("outcome", [Retry(FAILURE, 1.0), HandedBack()])
def test_what_would_run_again_is_cancelled_if_that_was_asked_for(
    core: Core, outcome: Ending
) -> None:
    claims = running(core, 2)
    core.cancel(core.actor, [claims[0].lease.execution_id])
    stored, _ = end(core, claims, outcome)
    assert [stored[each.lease.execution_id] for each in claims] == [
        Status.CANCELLED,
        Status.PENDING,
    ]
    assert core.event_types(claims[0].lease.execution_id)[-1] == "cancelled"
    core.assert_consistent()


def test_as_many_are_claimed_as_ended_in_their_order(core: Core) -> None:
    claims = running(core, 2)
    following = core.pending_many([{"n": n} for n in range(4)])
    asked = more(core, claims[0], 3)
    _, claimed = end(core, claims, Completed(1), asked)
    assert {each.lease.execution_id for each in claimed} == set(following[:2])
    assert {each.lease.token for each in claimed} <= set(asked.tokens)
    assert core.event_types(following[0]) == ["created", "queued", "started"]
    assert [core.status(each) for each in following[2:]] == [Status.PENDING] * 2
    late, nothing = end(core, claims, Completed(1), more(core, claims[0], 2))
    assert (late, nothing) == ({}, []), "a late statement claimed"
    stored, _ = end(core, claimed, Completed(2))
    assert len(stored) == 2
    core.assert_consistent()


def test_only_agents_that_need_no_slot_are_claimed(core: Core) -> None:
    claims = running(core, 1)
    core.pending_many([{}] * 2)
    others = MoreClaims(core.worker("w"), [uuid4()], [uuid4()])
    assert end(core, claims, Completed(1), others)[1] == []


def test_a_message_is_claimed_with_more_of_its_queue(core: Core) -> None:
    done = core.running()
    core.end(done, Completed(1))
    message = core.message(core.queued())
    following = core.pending_many([{}] * 3)
    token, asked = uuid4(), more(core, done, 2)
    with core.database.autocommit() as connection:
        claim, others = lifecycle.claim_group(connection, message, token, asked)
    assert claim is not None
    assert claim.lease.token == token
    assert {each.lease.execution_id for each in others} == set(following[:2])
    with core.database.autocommit() as connection:
        again = lifecycle.claim_group(connection, message, uuid4(), more(core, done, 2))
    assert again == (None, []), "a duplicate claimed"
    assert core.status(following[2]) is Status.PENDING
    with core.database.autocommit() as connection:
        (last,) = lifecycle.claim_more(connection, DEFAULT_QUEUE, more(core, done, 2))
    assert last.lease.execution_id == following[2]
    with core.database.autocommit() as connection:
        found = lifecycle.find_claims(connection, list(asked.tokens), asked.worker.id)
    assert {each.lease for each in found} == {each.lease for each in others}
    core.assert_consistent()


def test_a_worker_without_a_lease_claims_nothing(core: Core) -> None:
    done = core.running()
    following = core.pending_many([{}])
    asked = more(core, done, 1)
    message = core.message(core.queued())
    core.execute("UPDATE workers SET lease_until = now() - interval '1 s'")
    with core.database.autocommit() as connection, pytest.raises(LeaseExpiredError):
        lifecycle.claim_group(connection, message, uuid4(), asked)
    with core.database.autocommit() as connection:
        assert lifecycle.claim_more(connection, DEFAULT_QUEUE, asked) == []
    stored, claimed = end(core, [done], Completed(1), asked)
    assert (len(stored), claimed) == (1, [])
    assert core.status(following[0]) is Status.PENDING
