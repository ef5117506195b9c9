"""Limits by key of tasks: who runs, who waits, who is cancelled, and that no slot is lost."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from celeriac.db.executions import limits
from celeriac.domain.errors import LimitReachedError
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Parked,
    Retry,
    Stopped,
    SubmitRequest,
)
from celeriac.domain.executions.pauses import PauseScope
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.tasks import Priority, TaskSpec
from celeriac.services.executions.change import Change
from celeriac.services.executions.why import ExplainWaiting
from tests.support.core import ASKING, LEASE_SECONDS, LIMIT, RESEND_SECONDS, Core
from tests.support.pauses import OF_ALL_WORK, pause, pauses_of, resume
from tests.support.rows_read import rows_read
from tests.support.statements import sent
from tests.support.task_limits import (
    KEY,
    batch,
    end,
    keep,
    limited,
    one_per_key,
    start,
    submit,
    waits,
)
from tests.support.workspace_limits import limit

pytestmark = pytest.mark.requirement("F13")

SLEEP = Parked(WaitingFor.SLEEP, "It sleeps.", seconds=60)
FAILURE = Failure("agent_failed", "it failed", {"type": "Error", "traceback": "", "attempt": 1})


def test_as_many_run_as_the_limit_says_and_the_others_in_turn(core: Core) -> None:
    core = one_per_key(core, most=2)
    first, second, third, fourth = (submit(core) for _ in range(4))
    other = submit(core, "b")
    assert [core.status(each) for each in (first, second, other)] == [Status.QUEUED] * 3
    assert waits(core, third)
    assert waits(core, fourth)

    claim = start(core, first)
    assert claim.limit_keys == ["a"]
    end(core, claim)

    assert not waits(core, third)
    assert waits(core, fourth)
    core.assert_consistent()
    end(core, start(core, second))
    end(core, start(core, third))
    end(core, start(core, fourth))
    end(core, start(core, other))
    assert core.count("execution_limits") == 0
    core.assert_consistent()


def test_an_execution_without_limits_costs_the_same_statements(core: Core) -> None:
    core.end(core.running(), Completed(1))
    with sent(core.database) as statements:
        core.end(core.running(), Completed(1))
    assert not any("execution_limits" in each for each in statements)


def _retry(core: Core, claim: Claim) -> None:
    core.end(claim, Retry(FAILURE, 60.0))


def _lose(core: Core, _claim: Claim) -> None:
    core.pass_time(LEASE_SECONDS + 1)
    core.rescue()
    later = "UPDATE executions SET available_at = now() + interval '60 seconds'"
    core.execute(f"{later} WHERE held = 'time'")


def _give_up(core: Core, claim: Claim) -> None:
    core.execute("UPDATE executions SET max_crashes = 1")
    _lose(core, claim)


def _cancel(core: Core, claim: Claim) -> None:
    core.cancel(core.actor, [claim.lease.execution_id])
    core.end(claim, Stopped())


def _cancel_parked(core: Core, claim: Claim) -> None:
    core.end(claim, ASKING)
    core.cancel(core.actor, [claim.lease.execution_id])


EXITS: dict[str, Callable[[Core, Claim], object]] = {
    "complete": lambda core, claim: core.end(claim, Completed(1)),
    "complete and claim": lambda core, claim: core.finish(
        claim, Completed(1), (), core.next_claim()
    ),
    "fail": lambda core, claim: core.end(claim, Failed(FAILURE)),
    "retry": _retry,
    "hand back": lambda core, claim: core.end(claim, HandedBack(delay=60.0)),
    "ask": lambda core, claim: core.end(claim, ASKING),
    "sleep": lambda core, claim: core.end(claim, SLEEP),
    "cancel": _cancel,
    "cancel what waits": _cancel_parked,
    "lose": _lose,
    "give up": _give_up,
}


@pytest.mark.failure("Q3", "Q7")
@pytest.mark.parametrize("name", EXITS)
def test_each_exit_gives_the_slot_back(core: Core, name: str) -> None:
    core = one_per_key(core)
    first, second = submit(core), submit(core)
    claim = start(core, first)
    keep(core)
    assert waits(core, second)

    EXITS[name](core, claim)
    keep(core)

    assert core.status(second) is Status.QUEUED
    core.assert_consistent()


@pytest.mark.failure("Q7")
@pytest.mark.parametrize("name", ["retry", "hand back", "ask", "sleep", "lose"])
def test_what_goes_on_waits_for_a_slot_again_before_all_that_have_not_begun(
    core: Core, name: str
) -> None:
    core = one_per_key(core)
    first, second, third = submit(core), submit(core), submit(core)
    EXITS[name](core, start(core, first))
    keep(core)
    running = start(core, second)
    core.pass_time(120)
    core.resume()
    if name == "ask":
        core.answer(first)
    keep(core)
    assert waits(core, first)
    assert waits(core, third)
    core.assert_consistent()

    end(core, running)

    assert not waits(core, first)
    assert waits(core, third)
    end(core, start(core, first))
    end(core, start(core, third))
    assert core.count("execution_limits") == 0


@pytest.mark.failure("Q2")
def test_an_end_after_the_lease_was_lost_gives_no_further_slot(core: Core) -> None:
    core = one_per_key(core)
    first, second, third = submit(core), submit(core), submit(core)
    stalled = start(core, first)
    _lose(core, stalled)
    keep(core)
    start(core, second)
    assert core.end(stalled, Completed(1)).status is None
    keep(core)
    assert waits(core, third)
    core.assert_consistent()


@pytest.mark.failure("Q10")
def test_an_end_waits_for_nobody_and_writes_no_row_that_others_write(core: Core) -> None:
    rate = {"key": "'all'", "max": 1_000, "seconds": 1}
    spec = {"concurrency": [{"key": KEY, "max": 1}], "rates": [rate]}
    core = Core(core.database, TaskSpec.model_validate(spec))
    limit(core, "limited", key=KEY, max=5)
    first, second = submit(core), submit(core)
    claim = start(core, first)
    with core.database.transaction() as connection:
        limits.lock(connection, core.actor.workspace_id, claim.limit_keys or ())
        for table in ("execution_rates", "limits", "workspaces"):
            assert connection.execute(text(f"SELECT 1 FROM {table} FOR UPDATE")).first()
        core.end(claim, Completed(1))
        assert core.status(first) is Status.COMPLETED
    keep(core)
    assert not waits(core, second)
    core.assert_consistent()


def test_a_message_that_was_not_sent_or_was_lost_keeps_the_slot(core: Core) -> None:
    core = one_per_key(core)
    first, second = submit(core), submit(core)
    core.unqueue(first, delay=2.0)
    keep(core)
    assert waits(core, second)
    core.pass_time(3.0)
    keep(core)
    assert core.status(first) is Status.QUEUED
    core.lose_messages()
    core.pass_time(RESEND_SECONDS + 1)
    core.resend()
    keep(core)
    assert waits(core, second)
    assert core.status(first) is Status.QUEUED
    core.assert_consistent()


def test_what_is_not_due_waits_for_no_slot(core: Core) -> None:
    core = one_per_key(core)
    request = SubmitRequest(task_id=core.task, variables={"key": "a"}, delay_seconds=60.0)
    later = core.submit(core.actor, request).execution_id
    first = submit(core)
    assert core.status(first) is Status.QUEUED
    core.pass_time(61.0)
    keep(core)
    assert waits(core, later)
    core.assert_consistent()


@pytest.mark.failure("Q13")
def test_who_waits_for_one_key_does_not_hold_up_those_that_wait_for_another(core: Core) -> None:
    core = limited(core, {"key": "'all'", "max": 2}, {"key": KEY, "max": 1})
    first, same, other, third = submit(core), submit(core), submit(core, "b"), submit(core, "c")
    assert waits(core, same)
    assert core.status(other) is Status.QUEUED
    assert waits(core, third)
    core.assert_consistent()

    end(core, start(core, other))
    assert not waits(core, third)
    assert waits(core, same)
    end(core, start(core, first))
    keep(core)
    assert not waits(core, same)
    core.assert_consistent()


@pytest.mark.failure("Q9")
def test_many_that_wait_for_one_key_are_not_read_for_another(core: Core) -> None:
    core = one_per_key(core)
    holder = submit(core, "full")
    batch(core, ["full"] * 2_000)
    core.execute("ANALYZE executions, execution_limits")
    free = submit(core, "free")
    assert core.status(free) is Status.QUEUED
    with sent(core.database) as statements:
        core.limits.some(LIMIT)
    assert len(statements) == 1, "the line of a full key is looked at once"
    end(core, start(core, holder))
    workspace = core.actor.workspace_id

    def read(connection: Connection) -> None:
        found, _ = limits.first(connection, workspace, "full", limit=32)
        limits.wants(connection, workspace, "full", found)
        limits.lines(connection, after=None, limit=100)
        limits.first_taken(connection, workspace, [KeyedLimit("full", 1, LimitPolicy.CANCEL_NEW)])
        limits.has_policies(connection, workspace, "full")
        limits.shown(connection, found[0], most=10)

    for plan, count in rows_read(core.database, read, "execution_limits"):
        assert count < 300, plan


def test_a_higher_priority_comes_first_also_if_it_is_given_later(core: Core) -> None:
    core = one_per_key(core)
    running, normal = submit(core), submit(core)
    request = SubmitRequest(task_id=core.task, variables={"key": "a"}, priority=int(Priority.HIGH))
    high = core.submit(core.actor, request).execution_id
    last = submit(core)
    Change(core.database, core.dispatch).prioritise(core.actor, last, Priority.CRITICAL)
    claim, order = start(core, running), []
    for _ in range(3):
        end(core, claim)
        (following,) = [each for each in (normal, high, last)
                        if each not in order and not waits(core, each)]  # fmt: skip
        order.append(following)
        claim = start(core, following)
    assert order == [last, high, normal]


def test_cancel_new_refuses_a_submission_and_ends_what_is_due_later(core: Core) -> None:
    core = one_per_key(core, "cancel_new")
    request = SubmitRequest(task_id=core.task, variables={"key": "a"}, delay_seconds=60.0)
    later = core.submit(core.actor, request).execution_id
    first = submit(core)
    with pytest.raises(LimitReachedError) as refused:
        submit(core)
    assert refused.value.details["execution_id"] == str(first)
    assert core.count("executions") == 2
    core.pass_time(61.0)
    keep(core)
    found = core.get(later)
    assert (found.status, found.error_code) == (Status.CANCELLED, "limit_reached")
    assert str(first) in (found.error_message or "")
    end(core, start(core, first))
    assert core.status(submit(core)) is Status.QUEUED
    core.assert_consistent()


@pytest.mark.failure("Q8")
def test_cancel_new_lets_a_new_one_in_when_the_only_holder_was_lost(core: Core) -> None:
    core = one_per_key(core, "cancel_new")
    _give_up(core, start(core, submit(core)))
    assert core.status(submit(core)) is Status.QUEUED


def test_keep_latest_lets_only_the_newest_wait(core: Core) -> None:
    core = one_per_key(core, "keep_latest")
    running, second, third = submit(core), submit(core), submit(core)
    found = core.get(second)
    assert (found.status, found.error_code) == (Status.CANCELLED, "superseded")
    assert str(third) in (found.error_message or "")
    assert waits(core, third)
    end(core, start(core, running))
    end(core, start(core, third))
    core.assert_consistent()


def test_cancel_running_starts_the_new_one_after_the_old_one_has_ended(core: Core) -> None:
    core = one_per_key(core, "cancel_running")
    claim = start(core, submit(core))
    newer = submit(core)
    old = core.get(claim.lease.execution_id)
    assert old.status is Status.RUNNING
    assert str(newer) in (old.cancel_requested_by or "")
    assert waits(core, newer)
    core.end(claim, Stopped())
    keep(core)
    assert core.status(newer) is Status.QUEUED
    core.assert_consistent()


@pytest.mark.requirement("F16")
@pytest.mark.failure("Q13")
def test_why_names_the_limit_and_who_has_its_slots(core: Core) -> None:
    core = one_per_key(core)
    first, second, third = submit(core), submit(core), submit(core)
    found = ExplainWaiting(core.database)(core.actor, third)
    reason = found.reasons[0]
    assert reason.code is ReasonCode.LIMIT
    assert "'a'" in reason.text
    assert str(first) in reason.text
    assert reason.subject is not None
    assert (reason.subject.id, reason.count) == (str(first), 1)
    ahead = ExplainWaiting(core.database)(core.actor, second).reasons[0]
    assert ahead.count == 0


def test_a_batch_is_let_in_up_to_the_limit(core: Core) -> None:
    core = one_per_key(core, most=3)
    ids = batch(core, ["a"] * 5 + ["b"] * 2)
    assert [waits(core, each) for each in ids] == [False] * 3 + [True] * 2 + [False] * 2
    core.assert_consistent()


def test_expiry_and_cancellation_take_what_waits_out_of_the_line(core: Core) -> None:
    core = one_per_key(core)
    running, second = submit(core), submit(core)
    request = SubmitRequest(task_id=core.task, variables={"key": "a"}, expires_in=5.0)
    third = core.submit(core.actor, request).execution_id
    core.cancel(core.actor, [second])
    core.pass_time(6.0)
    assert core.end_expired() == [third]
    assert core.count("execution_limits") == 1
    end(core, start(core, running))
    core.assert_consistent()


@pytest.mark.requirement("F15")
@pytest.mark.parametrize("scope", OF_ALL_WORK)
def test_no_slot_is_lost_by_a_pause(core: Core, scope: PauseScope) -> None:
    core = one_per_key(core)
    ids = [submit(core), submit(core)]
    paused = pause(core, scope)
    assert core.claim(core.message(ids[0])) is None
    ids.append(submit(core, "b"))
    for _ in range(3):
        keep(core)
        pauses_of(core).hold()
    assert {core.status(each) for each in ids} == {Status.PENDING}
    core.assert_consistent()
    resume(core, paused)
    for left in (3, 2, 1):
        keep(core)
        pauses_of(core).hold()
        keep(core)
        sent_now = [each for each in ids if core.status(each) is Status.QUEUED]
        assert sent_now, f"{left} wait for ever"
        end(core, start(core, sent_now[0]))
        core.assert_consistent()
    assert core.count("execution_limits") == 0
