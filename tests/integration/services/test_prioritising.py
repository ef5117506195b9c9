"""Executions that wait get another priority: their new place, and what doesn't change."""

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db.executions.change import set_priority
from celeriac.domain.errors import ConflictError, NotFoundError
from celeriac.domain.executions.model import Completed, Failure, Retry, SubmitRequest
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from celeriac.kit.ids import uuid7
from celeriac.services.executions.change import Change
from tests.support.core import Core, report_worker

FAILURE = Failure("rate_limited", "Too many requests.")


def audited(core: Core) -> list[tuple[str, dict[str, str]]]:
    query = text(
        "SELECT resource_id, details FROM audit_logs WHERE action = 'execution.prioritise'"
        " ORDER BY position"
    )
    with core.database.autocommit() as connection:
        return [(row.resource_id, row.details) for row in connection.execute(query)]


def sent(core: Core) -> list[UUID]:
    """Send what is eligible; return it in the order of the messages."""
    core.dispatch.send_due()
    found = []
    while (envelope := core.queue.take(DEFAULT_QUEUE)) is not None:
        found.append(envelope.message.execution_id)
    return found


@pytest.mark.requirement("C4")
def test_a_pending_execution_takes_its_new_place(core: Core) -> None:
    report_worker(core, 4, DEFAULT_QUEUE)
    first, second, third, last = core.pending_many([{}] * 4)
    for number, each in enumerate((first, second, third, last)):
        core.execute(
            "UPDATE executions SET available_at = now() - make_interval(secs => :age)"
            " WHERE id = :id",
            age=60 - number,
            id=each,
        )
    prioritise = Change(core.database, core.dispatch).prioritise

    found = prioritise(core.actor, third, Priority.CRITICAL)
    prioritise(core.actor, first, Priority.LOW)
    prioritise(core.actor, first, Priority.LOW)

    assert found.priority == Priority.CRITICAL
    assert sent(core) == [third, second, last, first]
    assert audited(core) == [
        (str(third), {"from": "normal", "to": "critical"}),
        (str(first), {"from": "normal", "to": "low"}),
    ]
    core.assert_consistent()


def test_what_is_held_stays_held(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, delay_seconds=3_600)
    later = core.submit(core.actor, request).execution_id
    before = core.get(later)

    after = Change(core.database, core.dispatch).prioritise(core.actor, later, Priority.HIGH)

    assert after == replace(before, priority=Priority.HIGH)
    assert (after.status, after.held) == (Status.PENDING, Held.TIME)
    assert sent(core) == []


def test_a_running_attempt_goes_on_and_its_retry_has_the_new_priority(core: Core) -> None:
    claim = core.running()
    execution_id = claim.lease.execution_id

    Change(core.database, core.dispatch).prioritise(core.actor, execution_id, Priority.HIGH)
    core.end(claim, Retry(FAILURE, 0.0))

    assert core.get(execution_id).priority == Priority.HIGH
    core.end(core.claim_again(claim), Completed(1))
    assert core.status(execution_id) is Status.COMPLETED
    core.assert_consistent()


def test_a_message_that_is_sent_still_claims_it(core: Core) -> None:
    execution_id = core.queued()
    message = core.message(execution_id)

    found = Change(core.database, core.dispatch).prioritise(
        core.actor, execution_id, Priority.CRITICAL
    )

    assert (found.status, found.priority) == (Status.QUEUED, Priority.CRITICAL)
    assert core.claim(message) is not None
    core.assert_consistent()


def test_what_has_ended_keeps_its_priority_and_others_learn_nothing(core: Core) -> None:
    claim = core.running()
    execution_id = claim.lease.execution_id
    stranger = replace(core.actor, workspace_id=uuid7())
    prioritise = Change(core.database, core.dispatch).prioritise
    with pytest.raises(NotFoundError):
        prioritise(stranger, execution_id, Priority.HIGH)
    core.end(claim, Completed(1))

    with pytest.raises(ConflictError, match="is completed; only one that has not ended"):
        prioritise(core.actor, execution_id, Priority.HIGH)

    assert core.get(execution_id).priority == Priority.NORMAL
    assert audited(core) == []


def test_an_end_that_comes_first_is_seen(core: Core) -> None:
    """The statement waits for the row, and then sees that the execution has ended."""
    claim = core.running()
    core.end(claim, Completed(1))
    with core.database.autocommit() as connection:
        assert set_priority(connection, [claim.lease.execution_id], Priority.HIGH) == {}
