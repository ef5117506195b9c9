"""Agents that wait in their places: longer than their limits, and over the end of a worker."""

import signal
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from celeriac.db import approvals
from celeriac.db.executions.queries import find
from celeriac.domain.approvals import Answer, Approval, ApprovalFilter
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import Limits, RetryPolicy
from celeriac.services.approvals.answer import Approvals
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

LIMITS = Limits(soft_seconds=3, hard_seconds=4)
"""More than a child process needs to start and ask on a busy machine."""
ONCE = RetryPolicy(max_retries=0)


def asked(fleet: Fleet, execution_id: UUID) -> list[Approval]:
    """Return an execution's questions."""
    wanted = ApprovalFilter(execution_id=execution_id)
    with fleet.container.database.autocommit() as connection:
        return list(approvals.find(connection, wanted, before=None, limit=10).items)


def answer(fleet: Fleet, execution_id: UUID) -> None:
    """Answer an execution's one question, as its owner."""
    (question,) = asked(fleet, execution_id)
    container = fleet.container
    answering = Approvals(container.database, container.live, container.dispatch.send_due)
    answering.answer(fleet.actor, question.id, Answer(approved=True, value="Monday"))


FUNCTIONS = ("ask", "plain_ask")
"""On the loop of the worker, and in a child process."""


def submit_both(fleet: Fleet, **spec: Any) -> list[UUID]:
    """Submit an execution of each function; wait until both ask."""
    ids = [
        fleet.submit(fleet.task(function, limits=LIMITS, **spec), diary=str(fleet.diary))
        for function in FUNCTIONS
    ]
    wait_asked(fleet, ids, attempts=1)
    return ids


def wait_asked(fleet: Fleet, ids: Sequence[UUID], *, attempts: int) -> None:
    """Wait until so many attempts of each have begun, the last of which asks."""
    wanted = attempts * len(ids)
    wait_until(lambda: len(fleet.diary_lines()) == wanted, "the attempts run")
    wait_until(lambda: all(asked(fleet, each) for each in ids), "they ask")


def outlive_the_limits() -> None:
    """Wait for longer than the hard limit."""
    until = time.monotonic() + LIMITS.hard_seconds + 0.5
    wait_until(lambda: time.monotonic() > until, "the limits have passed")


@pytest.mark.requirement("B7")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_question_outlives_the_limits_and_the_worker(
    fleet: Fleet, number: signal.Signals
) -> None:
    fleet.beat()
    worker = fleet.worker()
    ids = submit_both(fleet, retry=ONCE)
    outlive_the_limits()
    assert {fleet.get(each).status for each in ids} == {Status.RUNNING}
    worker.signal(number)
    worker.wait_end()

    fleet.lasting_worker("w2")
    wait_asked(fleet, ids, attempts=2)
    outlive_the_limits()
    for execution_id in ids:
        answer(fleet, execution_id)
    assert_answered(fleet, ids, crashes=1 if number is signal.SIGKILL else 0)


def test_an_answer_while_no_worker_runs_is_found_by_the_next(fleet: Fleet) -> None:
    fleet.beat()
    worker = fleet.worker()
    ids = submit_both(fleet, retry=ONCE)
    worker.terminate()
    worker.wait_end()
    for execution_id in ids:
        answer(fleet, execution_id)

    fleet.lasting_worker("w2")
    assert_answered(fleet, ids, crashes=0)


def assert_answered(fleet: Fleet, ids: Sequence[UUID], *, crashes: int) -> None:
    """Check that both end with their answers, to questions that were asked once."""
    for done in fleet.wait_terminal(ids):
        assert (done.status, done.result, done.retry_count) == (Status.COMPLETED, "Monday", 0)
        assert done.crash_count == crashes
        assert fleet.event_types(done.id).count("approval_asked") == 1


def test_those_that_wait_are_listed_and_can_be_cancelled(fleet: Fleet) -> None:
    fleet.beat()
    fleet.worker()
    ids = submit_both(fleet)
    wanted = ExecutionFilter(waiting_for=WaitingFor.APPROVAL)
    with fleet.container.database.autocommit() as connection:
        found = find(connection, wanted, before=None, limit=10).items
    assert {(each.id, each.status, each.waiting_for) for each in found} == {
        (each, Status.RUNNING, WaitingFor.APPROVAL) for each in ids
    }
    outlive_the_limits()

    fleet.container.cancel(fleet.actor, ids)
    for execution_id in ids:
        ended = fleet.wait_status(execution_id, Status.CANCELLED)
        assert ended.cancel_requested_by == fleet.actor.name
    with fleet.container.database.autocommit() as connection:
        assert not find(connection, wanted, before=None, limit=10).items
