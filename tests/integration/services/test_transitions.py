"""Every transition from every state: the table of states is what the database does."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from celeriac.db.executions import lifecycle
from celeriac.domain.executions.model import (
    Completed,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import TRANSITIONS, Held, Status, Transition, WaitingFor
from tests.support.core import ASKING, LEASE_SECONDS, RESEND_SECONDS, Core

pytestmark = pytest.mark.requirement("A4")

FAILURE = Failure("agent_failed", "it failed", {"type": "Error", "traceback": "", "attempt": 1})
OUTCOMES: dict[Status, Outcome] = {
    Status.COMPLETED: Completed(1),
    Status.FAILED: Failed(FAILURE),
    Status.CANCELLED: Stopped(),
}


def arrange(core: Core, status: Status) -> UUID:
    """Bring an execution into `status` by the shortest legal way."""
    if status is Status.WAITING:
        return core.waiting()
    if status is Status.PENDING:
        return core.pending()
    if status is Status.QUEUED:
        return core.queued()
    claim = core.running()
    if status in OUTCOMES:
        core.end(claim, OUTCOMES[status])
    return claim.lease.execution_id


def finishing(outcome: Outcome) -> Callable[[Core, UUID], object]:
    def finish(core: Core, execution_id: UUID) -> object:
        with core.database.autocommit() as connection:
            return lifecycle.finish(connection, core.lease(execution_id), outcome)

    return finish


def lose(core: Core, execution_id: UUID) -> object:
    core.pass_time(LEASE_SECONDS + 1)
    return core.rescue()


def give_up(core: Core, execution_id: UUID) -> object:
    core.execute("UPDATE executions SET max_crashes = 1")
    return lose(core, execution_id)


def lose_message(core: Core, execution_id: UUID) -> object:
    core.lose_messages()
    core.pass_time(RESEND_SECONDS + 1)
    return core.resend()


def wait_enough(core: Core, execution_id: UUID) -> object:
    core.execute("UPDATE executions SET waiting_until = now() WHERE status = 'waiting'")
    return core.resume()


def expire(core: Core, execution_id: UUID) -> object:
    with core.database.transaction() as connection:
        return lifecycle.expire(
            connection,
            execution_id,
            code="approval_expired",
            message="Nobody answered.",
            approval_id=uuid4(),
        )


def lapse(core: Core, execution_id: UUID) -> object:
    core.execute("UPDATE executions SET expires_at = now() WHERE completed_at IS NULL")
    return core.end_expired()


OPERATIONS: dict[str, tuple[Transition, Callable[[Core, UUID], object]]] = {
    "queue": (Transition.QUEUE, lambda core, _: core.dispatch.send_due()),
    "unqueue": (Transition.UNQUEUE, lambda core, key: core.unqueue(key)),
    "unqueue for a while": (Transition.UNQUEUE, lambda core, key: core.unqueue(key, delay=2.0)),
    "lose message": (Transition.UNQUEUE, lose_message),
    "claim": (Transition.CLAIM, lambda core, key: core.claim(core.message(key))),
    "complete": (Transition.COMPLETE, finishing(Completed({"answer": 42}))),
    "fail": (Transition.FAIL, finishing(Failed(FAILURE))),
    "retry": (Transition.RETRY, finishing(Retry(FAILURE, 2.0))),
    "retry at once": (Transition.RETRY, finishing(Retry(FAILURE, 0.0))),
    "hand back": (Transition.HAND_BACK, finishing(HandedBack())),
    "hand back later": (Transition.HAND_BACK, finishing(HandedBack(FAILURE, 2.0))),
    "stop": (Transition.STOP, finishing(Stopped())),
    "lose": (Transition.LOSE, lose),
    "give up": (Transition.GIVE_UP, give_up),
    "park": (Transition.PARK, finishing(Parked(WaitingFor.PROVIDER_LIMIT, "429", seconds=60))),
    "ask": (Transition.PARK, finishing(ASKING)),
    "wait enough": (Transition.RESUME, wait_enough),
    "answer": (Transition.RESUME, lambda core, key: core.answer(key)),
    "expire": (Transition.EXPIRE, expire),
    "cancel": (Transition.CANCEL, lambda core, key: core.cancel(core.actor, [key])),
    "lapse": (Transition.LAPSE, lapse),
}


MOVES_TIME = {"lose", "give up", "lose message"}
"""Operations that shift all times."""


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", Status)
def test_a_transition_happens_from_its_states_and_from_no_other(
    core: Core, status: Status, operation: str
) -> None:
    transition, do = OPERATIONS[operation]
    sources, target = TRANSITIONS[transition]
    execution_id = arrange(core, status)
    before = core.events(execution_id)
    do(core, execution_id)
    after = core.get(execution_id)
    if status in sources:
        assert after.status is target
        assert len(core.events(execution_id)) > len(before), "the log has no event for it"
    elif status is Status.RUNNING and transition is Transition.CANCEL:
        assert after.status is status
        assert core.event_types(execution_id)[-1] == "cancel_requested"
    else:
        assert after.status is status
        assert core.events(execution_id) == before, "something illegal was written"
    core.assert_consistent()


HELD = {"retry": Held.TIME, "hand back later": Held.TIME, "lose": Held.TIME,
        "unqueue for a while": Held.TIME, "unqueue": None, "lose message": None, "hand back": None,
        "retry at once": None, "wait enough": None, "answer": None}  # fmt: skip
"""How each operation that makes an execution pending holds it."""


def test_every_transition_to_pending_says_how_the_row_is_held() -> None:
    pending = {name for name, (_, target) in TRANSITIONS.items() if target is Status.PENDING}
    assert {OPERATIONS[name][0] for name in HELD} == pending
    assert {name for name, (kind, _) in OPERATIONS.items() if kind in pending} == HELD.keys()


@pytest.mark.parametrize("operation", HELD)
def test_what_becomes_pending_is_held_until_it_is_due(core: Core, operation: str) -> None:
    transition, do = OPERATIONS[operation]
    (source,) = TRANSITIONS[transition][0]
    execution_id = arrange(core, source)
    # as if a release that knew no `held` had queued it
    core.execute("UPDATE executions SET held = 'time' WHERE status = 'queued'")
    do(core, execution_id)
    row = core.get(execution_id)
    assert (row.status, row.held) == (Status.PENDING, HELD[operation])
    core.assert_consistent()


@pytest.mark.parametrize("held", Held)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_held_execution_is_only_cancelled_or_expires(
    core: Core, held: Held, operation: str
) -> None:
    execution_id = core.pending()
    core.execute(
        "UPDATE executions SET held = :held, available_at = now() + interval '1 day'", held=held
    )
    before = core.snapshot(execution_id)
    transition, do = OPERATIONS[operation]
    do(core, execution_id)
    if transition in {Transition.CANCEL, Transition.LAPSE}:
        assert core.status(execution_id) is Status.CANCELLED
        assert core.get(execution_id).held is None
    elif operation not in MOVES_TIME:
        assert core.snapshot(execution_id) == before
    core.assert_consistent()


@pytest.mark.parametrize("status", OUTCOMES)
def test_what_has_ended_never_changes(core: Core, status: Status) -> None:
    execution_id = arrange(core, status)
    before = core.snapshot(execution_id)
    for name, (_, do) in OPERATIONS.items():
        if name in MOVES_TIME:
            continue
        do(core, execution_id)
        assert core.snapshot(execution_id) == before, f"{name} changed it"


def test_every_transition_is_tested() -> None:
    assert {transition for transition, _ in OPERATIONS.values()} == set(Transition)


def test_only_the_attempt_that_a_message_names_is_claimed(core: Core) -> None:
    claim = core.running()
    core.end(claim, Retry(FAILURE, 0.0))
    core.dispatch.send_due()
    execution_id = claim.lease.execution_id
    assert core.status(execution_id) is Status.QUEUED
    message = core.message(execution_id)
    assert core.claim(replace(message, attempt=0)) is None, "an outdated message was heard"
    assert core.claim(replace(message, attempt=2)) is None, "a message from nowhere was heard"
    stale = replace(message, celery_task_id=str(execution_id))
    assert core.claim(stale) is None, "a message before it was heard"
    again = core.claim(message)
    assert again is not None
    assert again.lease.attempt == 2
