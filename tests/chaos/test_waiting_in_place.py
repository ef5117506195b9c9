"""Agents that wait in their places: longer than their limits, and over the end of a worker."""

import signal
import time
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


def wait_asked(fleet: Fleet, execution_id: UUID, *, attempts: int) -> None:
    """Wait until so many attempts have begun, the last of which asks."""
    wait_until(lambda: len(fleet.diary_lines()) == attempts, "the attempt runs")
    wait_until(lambda: asked(fleet, execution_id), "it asks")


def outlive_the_limits() -> None:
    """Wait for longer than the hard limit."""
    until = time.monotonic() + LIMITS.hard_seconds + 0.5
    wait_until(lambda: time.monotonic() > until, "the limits have passed")


@pytest.mark.requirement("B7")
@pytest.mark.parametrize("function", ["ask", "plain_ask"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_question_outlives_the_limits_and_the_worker(
    fleet: Fleet, function: str, number: signal.Signals
) -> None:
    fleet.beat()
    worker = fleet.worker()
    task = fleet.task(function, limits=LIMITS, retry=ONCE)
    execution_id = fleet.submit(task, diary=str(fleet.diary))
    wait_asked(fleet, execution_id, attempts=1)
    outlive_the_limits()
    assert fleet.get(execution_id).status is Status.RUNNING
    worker.signal(number)
    worker.wait_end()

    fleet.worker("w2")
    wait_asked(fleet, execution_id, attempts=2)
    outlive_the_limits()
    answer(fleet, execution_id)
    (done,) = fleet.wait_terminal([execution_id])

    assert (done.status, done.result, done.retry_count) == (Status.COMPLETED, "Monday", 0)
    assert done.crash_count == (1 if number is signal.SIGKILL else 0)
    assert fleet.event_types(execution_id).count("approval_asked") == 1


@pytest.mark.parametrize("function", ["ask", "plain_ask"])
def test_an_answer_while_no_worker_runs_is_found_by_the_next(fleet: Fleet, function: str) -> None:
    fleet.beat()
    worker = fleet.worker()
    task = fleet.task(function, limits=LIMITS, retry=ONCE)
    execution_id = fleet.submit(task, diary=str(fleet.diary))
    wait_asked(fleet, execution_id, attempts=1)
    worker.terminate()
    worker.wait_end()
    answer(fleet, execution_id)

    fleet.worker("w2")
    (done,) = fleet.wait_terminal([execution_id])

    assert (done.status, done.result, done.retry_count) == (Status.COMPLETED, "Monday", 0)
    assert fleet.event_types(execution_id).count("approval_asked") == 1


@pytest.mark.parametrize("function", ["ask", "plain_ask"])
def test_one_that_waits_is_listed_and_can_be_cancelled(fleet: Fleet, function: str) -> None:
    fleet.beat()
    fleet.worker()
    execution_id = fleet.submit(fleet.task(function, limits=LIMITS), diary=str(fleet.diary))
    wait_asked(fleet, execution_id, attempts=1)
    wanted = ExecutionFilter(waiting_for=WaitingFor.APPROVAL)
    with fleet.container.database.autocommit() as connection:
        found = find(connection, wanted, before=None, limit=10).items
    assert [(each.id, each.status, each.waiting_for) for each in found] == [
        (execution_id, Status.RUNNING, WaitingFor.APPROVAL)
    ]
    outlive_the_limits()

    fleet.container.cancel(fleet.actor, [execution_id])
    ended = fleet.wait_status(execution_id, Status.CANCELLED)

    assert ended.cancel_requested_by == fleet.actor.name
    with fleet.container.database.autocommit() as connection:
        assert not find(connection, wanted, before=None, limit=10).items
