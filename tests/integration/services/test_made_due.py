"""What an end makes due is sent at once by the process that stored the end, not by the keeper."""

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from celeriac.db.engine import Database
from celeriac.db.executions.lifecycle import MoreClaims
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.services.executions.dispatch import SendSoon
from celeriac.services.executions.finish import Finish
from tests.support.asking import a_question
from tests.support.core import ASKING, Core
from tests.support.families import FOR_CHILDREN, claim_of, parent_of, start_children
from tests.support.forgetful import ForgetfulDatabase
from tests.support.waiting import wait_until

FAILURE = Failure("agent_failed", "no", {"type": "LookupError", "attempt": 1})
TERMINAL = pytest.mark.parametrize("outcome", [Completed(1), Failed(FAILURE), Stopped()], ids=str)


class Ends:
    """Stores ends, and counts how many of them have made others due."""

    def __init__(self, core: Core, database: Database | None = None) -> None:
        self.core = core
        self.made_due = 0
        self.finish = Finish(database or core.database, core.live, self._send)

    def __call__(self, claim: Claim, outcome: Outcome) -> None:
        self.finish(claim, outcome, (), None)

    def _send(self) -> None:
        self.made_due += 1
        self.core.dispatch.try_to_send()


def waiting_parent(core: Core, end: Callable[[Claim, Outcome], object]) -> tuple[UUID, Claim]:
    """Return an execution that waits for its child, and the claim of that."""
    claim, (child,) = parent_of(core)
    end(claim, FOR_CHILDREN)
    assert core.status(claim.lease.execution_id) is Status.WAITING
    return claim.lease.execution_id, claim_of(core, child)


@TERMINAL
def test_the_end_of_the_last_child_sends_its_parent(core: Core, outcome: Outcome) -> None:
    end = Ends(core)
    parent, child = waiting_parent(core, end)
    assert end.made_due == 0, "parking has made nothing due"

    end(child, outcome)

    assert (core.status(parent), end.made_due) == (Status.QUEUED, 1)
    core.assert_consistent()


def test_the_end_that_claims_another_execution_sends_the_parent_too(core: Core) -> None:
    end = Ends(core)
    parent, child = waiting_parent(core, end)
    other = core.pending()

    finished = end.finish(child, Completed(1), (), core.next_claim())

    assert finished.claim is not None
    assert finished.claim.lease.execution_id == other
    assert core.status(parent) is Status.QUEUED


def test_only_the_last_of_several_children_makes_the_parent_due(core: Core) -> None:
    end = Ends(core)
    claim, children = parent_of(core, 3)
    end(claim, FOR_CHILDREN)
    claims = [claim_of(core, child) for child in children]
    for each in claims[:2]:
        end(each, Completed(1))
    assert end.made_due == 0

    end(claims[2], Completed(1))

    assert (core.status(claim.lease.execution_id), end.made_due) == (Status.QUEUED, 1)


def test_a_child_that_is_cancelled_while_it_would_run_again_sends_its_parent(core: Core) -> None:
    end = Ends(core)
    parent, child = waiting_parent(core, end)
    core.cancel(core.actor, [child.lease.execution_id])

    end(child, Retry(FAILURE, 1.0))

    assert core.status(parent) is Status.QUEUED


def test_a_parent_whose_children_have_ended_before_it_waits_is_sent(core: Core) -> None:
    end = Ends(core)
    claim, (child,) = parent_of(core)
    end(claim_of(core, child), Completed(1))
    assert end.made_due == 0, "its parent still runs"

    end(claim, FOR_CHILDREN)

    assert (core.status(claim.lease.execution_id), end.made_due) == (Status.QUEUED, 1)


@TERMINAL
def test_children_that_end_in_one_statement_send_their_parents(
    core: Core, outcome: Completed | Failed | Stopped
) -> None:
    end = Ends(core)
    families = [waiting_parent(core, end) for _ in range(3)]

    end.finish.group([(child.lease, outcome) for _, child in families], DEFAULT_QUEUE, None)

    assert {core.status(parent) for parent, _ in families} == {Status.QUEUED}
    assert end.made_due == 1


def test_ends_that_claim_more_in_one_statement_send_the_parent_too(core: Core) -> None:
    end = Ends(core)
    parent, child = waiting_parent(core, end)
    other = core.pending()
    more = MoreClaims(core.worker(), [uuid4()], [child.agent_version_id])

    written = end.finish.group([(child.lease, Completed(1))], DEFAULT_QUEUE, more)

    assert [claim.lease.execution_id for claim in written.claims] == [other]
    assert core.status(parent) is Status.QUEUED


def test_the_end_of_a_child_sends_the_sibling_that_it_releases(core: Core) -> None:
    end = Ends(core)
    claim, (first, second, third) = parent_of(core, 3, parallel=1)
    end(claim, FOR_CHILDREN)
    assert core.status(first) is Status.QUEUED, "the step sends what may run"

    end(claim_of(core, first), Completed(1))

    assert (core.status(second), core.status(third)) == (Status.QUEUED, Status.PENDING)
    assert end.made_due == 1


def test_children_of_a_map_are_sent_by_their_step(core: Core) -> None:
    children = start_children(core, core.running(), 3)
    assert {core.status(child) for child in children} == {Status.QUEUED}


def test_answers_that_come_before_the_question_is_stored_send_the_execution(core: Core) -> None:
    """Its question is known already, from an attempt before, and was answered since."""
    end = Ends(core)
    claim = core.running()
    end(claim, ASKING)
    core.execute("UPDATE approvals SET status = 'answered', approved = true, answered_at = now()")
    core.execute("UPDATE executions SET status = 'pending', waiting_for = NULL")
    again = core.claim_again(claim)

    end(again, ASKING)

    assert (core.status(claim.lease.execution_id), end.made_due) == (Status.QUEUED, 1)


def test_what_has_no_family_makes_nothing_due(core: Core) -> None:
    end = Ends(core)
    waits = Parked(WaitingFor.APPROVAL, "It asks.", questions=(a_question("other"),))
    outcomes: list[Outcome] = [
        Completed(1),
        Failed(FAILURE),
        Stopped(),
        Retry(FAILURE, 0.0),
        HandedBack(),
        waits,
    ]
    for claim, outcome in [(core.running(), outcome) for outcome in outcomes]:
        end(claim, outcome)
    assert end.made_due == 0


@pytest.mark.parametrize("together", [False, True])
def test_an_end_whose_answer_was_lost_sends_what_it_may_have_made_due(
    core: Core, together: bool
) -> None:
    parent, child = waiting_parent(core, core.end)
    forgetful = ForgetfulDatabase(core.database)
    end = Ends(core, forgetful)
    forgetful.losses = 1

    if together:
        end.finish.group([(child.lease, Completed(1))], DEFAULT_QUEUE, None)
    else:
        end(child, Completed(1))

    assert core.status(parent) is Status.QUEUED
    forgetful.close()


@pytest.mark.parametrize("unknown", [False, True])
def test_cancelling_a_child_sends_its_parent(core: Core, unknown: bool) -> None:
    parent, child = waiting_parent(core, core.end)
    core.end(child, HandedBack())
    if unknown:
        core.dispatch.after_ends([parent])  # which is no child
    else:
        core.cancel(core.actor, [child.lease.execution_id])
        core.dispatch.after_ends([child.lease.execution_id])
    assert core.status(parent) is (Status.WAITING if unknown else Status.QUEUED)


def test_what_is_called_meanwhile_is_sent_once_more() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    sent: list[int] = []

    def send() -> None:
        begun.release()
        go_on.wait(10)
        sent.append(1)

    soon = SendSoon(send)
    soon()
    assert begun.acquire(timeout=10)
    for _ in range(5):
        soon()
    go_on.set()
    wait_until(lambda: len(sent) == 2, "the calls meanwhile are one")
    soon()
    wait_until(lambda: len(sent) == 3, "it goes on")
    soon.close()
    soon()  # nobody is told: the keeper sends it
    assert len(sent) == 3
