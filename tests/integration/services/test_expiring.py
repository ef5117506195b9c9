"""Executions that have not begun in time are cancelled, and no worker begins them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from celeriac.db.executions import lifecycle
from celeriac.domain.executions.model import Failure, HandedBack, Retry, SubmitRequest
from celeriac.domain.executions.states import EXPIRED, Held, Status
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.tasks import TaskSpec
from celeriac.services.executions.expiry import EndExpired
from celeriac.services.executions.why import ExplainWaiting
from tests.support.core import Core
from tests.support.statements import sent
from tests.support.together import together

FAILURE = Failure("agent_failed", "it failed", {"type": "Error", "traceback": "", "attempt": 1})
SECONDS = 60.0


def expiring(core: Core, delay_seconds: float = 0.0) -> UUID:
    """Submit an execution that expires after `SECONDS`, and send it if it is due."""
    request = SubmitRequest(task_id=core.task, expires_in=SECONDS, delay_seconds=delay_seconds)
    return core.submit(core.actor, request).execution_id


@pytest.mark.parametrize("delay", [0.0, 10.0], ids=["queued", "held for its time"])
def test_what_has_not_begun_in_time_is_cancelled(core: Core, delay: float) -> None:
    late, other = expiring(core, delay_seconds=delay), core.pending()
    assert core.end_expired() == []
    core.pass_time(SECONDS + 1)

    assert core.end_expired() == [late]

    found = core.get(late)
    assert (found.status, found.error_code, found.held) == (Status.CANCELLED, EXPIRED, None)
    assert found.expires_at is not None
    assert found.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ") in (found.error_message or "")
    last = core.events(late)[-1]
    assert (last.type, last.data["code"]) == ("cancelled", EXPIRED)
    assert core.status(other) is Status.PENDING
    assert core.end_expired() == []
    core.assert_consistent()


def test_no_worker_begins_what_has_expired_before_the_keeper_has_seen_it(core: Core) -> None:
    message = core.message(expiring(core))
    core.pass_time(SECONDS + 1)
    assert core.claim(message) is None
    assert core.status(message.execution_id) is Status.QUEUED


def test_what_has_expired_is_neither_sent_nor_claimed_next(core: Core) -> None:
    claim = core.running()
    late = core.submit.batch(
        core.actor, SubmitRequest(task_id=core.task, expires_in=SECONDS), [{}]
    ).execution_ids[0]
    core.pass_time(SECONDS + 1)
    other = core.pending()

    ended = core.finish(claim, HandedBack(delay=9.0), (), core.next_claim())

    assert ended.claim is not None
    assert ended.claim.lease.execution_id == other
    core.dispatch.send_due()
    assert core.status(late) is Status.PENDING


def test_what_has_begun_does_not_expire(core: Core) -> None:
    message = core.message(expiring(core))
    claim = core.claim(message)
    assert claim is not None
    core.end(claim, Retry(FAILURE, 0.0))
    core.pass_time(SECONDS + 1)
    assert core.end_expired() == []
    assert core.claim_again(claim).lease.attempt == 2


def test_a_task_has_a_default_that_a_submission_replaces(core: Core) -> None:
    core = Core(core.database, TaskSpec(expires_in=SECONDS))
    usual = core.queued()
    later = core.submit(
        core.actor, SubmitRequest(task_id=core.task, expires_in=10 * SECONDS)
    ).execution_id
    at = datetime.now(UTC) + timedelta(days=1)
    fixed = core.submit(core.actor, SubmitRequest(task_id=core.task, expires_at=at)).execution_id
    assert core.get(fixed).expires_at == at
    core.pass_time(SECONDS + 1)
    assert core.end_expired() == [usual]
    assert core.status(later) is Status.QUEUED

    again = core.submit.repeat(core.actor, usual).execution_id
    repeated = core.get(again)
    assert repeated.expires_at is not None
    assert 0 < (repeated.expires_at - repeated.created_at).total_seconds() <= SECONDS + 1


def test_the_keeper_ends_a_bounded_number_and_tells_who_follows(core: Core) -> None:
    told: list[UUID] = []
    keeper = EndExpired(core.database, core.live, told.extend)
    late = [expiring(core) for _ in range(5)]
    core.pass_time(SECONDS + 1)
    assert [keeper(2), keeper(2), keeper(2), keeper(2)] == [2, 2, 1, 0]
    assert sorted(told) == sorted(late)
    assert {core.status(each) for each in late} == {Status.CANCELLED}


def test_two_keepers_and_a_claim_agree_on_one_outcome(core: Core) -> None:
    late = [expiring(core) for _ in range(20)]
    messages = [core.message(each) for each in late]
    core.execute("UPDATE executions SET expires_at = now() + interval '10 milliseconds'")
    claiming = core.claiming()
    begun: list[UUID] = []
    ended: list[UUID] = []

    def claim() -> None:
        found = (claiming(message, uuid4()) for message in messages)
        begun.extend(each.lease.execution_id for each in found if each is not None)

    def end() -> None:
        for _ in range(20):
            with core.database.transaction() as connection:
                ended.extend(lifecycle.end_expired(connection, limit=3))

    together([claim, end, end])
    core.pass_time(1)
    while found := core.end_expired():
        ended += found
    assert sorted(begun + ended) == sorted(late)
    core.assert_consistent()


def test_why_says_when_it_expires_and_that_it_has(core: Core) -> None:
    explain = ExplainWaiting(core.database)
    late = expiring(core, delay_seconds=10.0)
    assert core.get(late).held is Held.TIME
    found = explain(core.actor, late)
    assert [each.code for each in found.reasons][-1] is ReasonCode.EXPIRY
    assert found.reasons[-1].until == core.get(late).expires_at
    core.pass_time(SECONDS + 1)
    core.end_expired()
    after = explain(core.actor, late)
    assert after.reasons == ()
    assert "had not begun by" in after.text


def test_a_submission_without_expiry_costs_the_same_statements(core: Core) -> None:
    core.queued()
    with sent(core.database) as statements:
        core.queued()
        expiring(core)
    one, other = [each for each in statements if "INSERT INTO executions" in each]
    assert one == other
    assert not any("expires_at <= now()" in each for each in statements)
