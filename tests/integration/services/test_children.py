"""Executions that start others: the last end of a child resumes its parent, exactly once."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.errors import AgentMisconfiguredError, LeaseLostError, PermanentError
from celeriac.domain.executions.model import (
    Completed,
    Failed,
    Failure,
    HandedBack,
    Parked,
    Retry,
)
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.executions.steps import NewChildren
from celeriac.services.executions.attempt import Attempt, StopReason
from tests.support.core import LEASE_SECONDS, Core
from tests.support.families import (
    FOR_CHILDREN,
    children_of,
    claim_of,
    parent_of,
    run_step,
    start_children,
    steps_of,
    task_name,
)
from tests.support.together import together
from tests.support.waiting import wait_until

FAILURE = Failure("agent_failed", "no", {"type": "LookupError", "attempt": 1})


def resumed(core: Core, execution_id: UUID) -> int:
    """Return how often an execution was resumed."""
    return core.event_types(execution_id).count("resumed")


def test_children_belong_to_their_parent(core: Core) -> None:
    claim, (first, second) = parent_of(core, 2)
    grandchild = start_children(core, claim_of(core, first))[0]

    parent = core.get(claim.lease.execution_id)
    child = core.get(first)

    assert (parent.parent_id, parent.root_id) == (None, None)
    assert (child.parent_id, child.root_id) == (parent.id, parent.id)
    assert (child.owner_id, child.workspace_id) == (parent.owner_id, parent.workspace_id)
    assert child.priority == parent.priority
    assert [core.get(each).variables for each in (first, second)] == [{"n": 0}, {"n": 1}]
    assert (core.get(grandchild).parent_id, core.get(grandchild).root_id) == (first, parent.id)
    core.assert_consistent()


@pytest.mark.parametrize("width", [1, 3, 64])
def test_the_end_of_the_last_child_resumes_the_parent_once(core: Core, width: int) -> None:
    claim, children = parent_of(core, width)
    parent = claim.lease.execution_id
    core.end(claim, FOR_CHILDREN)
    claims = [claim_of(core, child) for child in children[:8]]
    core.cancel(core.actor, list(children[8:]))
    assert core.get(parent).waiting_for is WaitingFor.CHILDREN

    together([partial(core.end, each, Completed(1)) for each in claims])

    assert core.status(parent) is Status.PENDING
    assert resumed(core, parent) == 1
    core.assert_consistent()


def _lose(core: Core, child: UUID) -> None:
    core.execute("UPDATE executions SET max_crashes = 1 WHERE id = :id", id=child)
    claim_of(core, child)
    core.pass_time(LEASE_SECONDS + 1)
    assert core.rescue() >= 1
    core.pass_time(LEASE_SECONDS)


def _retried(core: Core, child: UUID) -> None:
    claim = claim_of(core, child)
    core.end(claim, Retry(FAILURE, 0.0))
    core.end(core.claim_again(claim), Completed(1))


def _expire(core: Core, child: UUID) -> None:
    core.end(claim_of(core, child), HandedBack())
    core.cancel(core.actor, [child])


ENDS: dict[str, Callable[[Core, UUID], object]] = {
    "completed": lambda core, child: core.end(claim_of(core, child), Completed(1)),
    "failed": lambda core, child: core.end(claim_of(core, child), Failed(FAILURE)),
    "cancelled": lambda core, child: core.cancel(core.actor, [child]),
    "handed back and cancelled": _expire,
    "worker lost": _lose,
    "retried, then completed": _retried,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("when", ["before the parent waits", "while it waits"])
def test_every_end_of_a_child_counts_once(core: Core, end: str, when: str) -> None:
    claim, (child, other) = parent_of(core, 2)
    parent = claim.lease.execution_id
    late = when == "while it waits"
    if late:
        core.end(claim, FOR_CHILDREN)
    ENDS["cancelled"](core, other)
    ENDS[end](core, child)
    if not late:
        claim = core.claim_again(claim) if core.status(parent) is Status.PENDING else claim
        core.end(claim, FOR_CHILDREN)

    assert core.status(parent) is Status.PENDING
    core.assert_consistent()


def test_a_child_that_ends_while_its_parent_is_parked_is_never_missed(core: Core) -> None:
    for _ in range(25):
        claim, children = parent_of(core, 2)
        claims = [claim_of(core, child) for child in children]
        works: list[Callable[[], object]] = [
            partial(core.end, claim, FOR_CHILDREN),
            *(partial(core.end, each, Completed(1)) for each in claims),
        ]
        random.shuffle(works)

        together(works)

        assert core.status(claim.lease.execution_id) is Status.PENDING
        assert resumed(core, claim.lease.execution_id) == 1
        core.end(core.claim_again(claim), Completed(1))
    core.assert_consistent()


@pytest.mark.parametrize(("seen", "status"), [(2, Status.PENDING), (1, Status.WAITING)])
def test_a_parent_that_waits_for_any_child_sees_those_that_have_ended(
    core: Core, seen: int, status: Status
) -> None:
    claim, (first, second) = parent_of(core, 2)
    parent = claim.lease.execution_id
    other = claim_of(core, second)
    core.end(claim_of(core, first), Completed(1))

    core.end(
        claim,
        Parked(WaitingFor.CHILD, "It waits for one.", children=True, live_children=seen),
    )

    assert core.status(parent) is status
    core.end(other, Completed(2))
    assert (core.status(parent), resumed(core, parent)) == (Status.PENDING, 1)
    core.assert_consistent()


def test_of_ends_at_once_one_resumes_a_parent_that_waits_for_any(core: Core) -> None:
    for _ in range(10):
        claim, children = parent_of(core, 4)
        parent = claim.lease.execution_id
        claims = [claim_of(core, child) for child in children]
        core.end(
            claim,
            Parked(WaitingFor.CHILD, "It waits for one.", children=True, live_children=4),
        )
        together([partial(core.end, each, Completed(1)) for each in claims])
        assert (core.status(parent), resumed(core, parent)) == (Status.PENDING, 1)
        core.end(core.claim_again(claim), Completed(1))
    core.assert_consistent()


def test_a_parent_that_waits_in_turn_is_resumed_for_each_child(core: Core) -> None:
    claim = core.running()
    for number in (1, 2, 3):
        (child,) = start_children(core, claim, number=number)
        core.end(claim, FOR_CHILDREN)
        core.end(claim_of(core, child), Completed(number))
        assert resumed(core, claim.lease.execution_id) == number
        claim = core.claim_again(claim)
    core.assert_consistent()


@pytest.mark.anyio
async def test_starting_again_after_a_lost_answer_starts_nothing(core: Core) -> None:
    claim = core.running()
    steps = steps_of(core, claim)
    new = NewChildren(task=task_name(core), places=[0], variables=[{}])
    await steps.start(1, new, run_step())
    (child,) = children_of(core, claim.lease.execution_id)

    # as the first statements of the second try see it
    steps._start(1, new, run_step(), [child], fresh=False)

    assert children_of(core, claim.lease.execution_id) == [child]
    assert core.count("executions") == 2
    core.assert_consistent()


@pytest.mark.anyio
async def test_a_worker_that_lost_its_lease_starts_and_stores_nothing(core: Core) -> None:
    claim = core.running()
    core.pass_time(LEASE_SECONDS + 1)
    core.rescue()
    steps = steps_of(core, claim)
    new = NewChildren(task=task_name(core), places=[0], variables=[{}])

    with pytest.raises(LeaseLostError):
        await steps.start(1, new, run_step())
    with pytest.raises(LeaseLostError):
        await steps.store(run_step())

    assert [core.count(each) for each in ("executions", "steps", "live_children")] == [1, 0, 0]


@pytest.mark.anyio
async def test_an_execution_that_is_being_cancelled_starts_no_child(core: Core) -> None:
    claim = core.running()
    core.cancel(core.actor, [claim.lease.execution_id])
    attempt = Attempt(claim.lease)
    new = NewChildren(task=task_name(core), places=[0], variables=[{}])

    with pytest.raises(LeaseLostError):
        await steps_of(core, claim, attempt).start(1, new, run_step())

    assert attempt.stop_reason is StopReason.CANCELLED
    assert core.count("executions") == 1


@pytest.mark.anyio
async def test_an_unknown_task_is_named(core: Core) -> None:
    new = NewChildren(task="nobody", places=[0], variables=[{}])

    with pytest.raises(AgentMisconfiguredError, match="There is no task 'nobody'"):
        await steps_of(core, core.running()).start(1, new, run_step())


@pytest.mark.anyio
async def test_a_tree_has_a_bounded_number_of_generations(core: Core) -> None:
    claim = core.running()
    new = NewChildren(task=task_name(core), places=[0], variables=[{}])
    for _ in range(15):
        await steps_of(core, claim).start(1, new, run_step())
        claim = claim_of(core, children_of(core, claim.lease.execution_id)[0])

    with pytest.raises(PermanentError, match="16 generations"):
        await steps_of(core, claim).start(1, new, run_step())


@pytest.mark.requirement("F12")
def test_cancelling_a_parent_cancels_all_generations(core: Core) -> None:
    claim, (child, other) = parent_of(core, 2)
    inner = claim_of(core, child)
    (grandchild,) = start_children(core, inner)
    leaf = start_children(core, claim_of(core, grandchild))[0]
    core.end(claim, FOR_CHILDREN)

    core.cancel(core.actor, [claim.lease.execution_id])

    assert core.status(claim.lease.execution_id) is Status.CANCELLED
    assert core.status(other) is Status.CANCELLED
    assert core.get(child).cancel_requested_by == "parent"
    assert core.get(grandchild).cancel_requested_at is not None
    assert core.status(leaf) is Status.CANCELLED
    assert core.cancel.children(100) == 0
    assert core.count("ended_parents") == 0
    core.assert_consistent()


def test_children_of_an_ended_parent_are_cancelled(core: Core) -> None:
    claim, (child,) = parent_of(core)
    core.finish(claim, Completed(1), (), None, has_rows=True)

    assert core.cancel.children(100) == 1

    assert core.status(child) is Status.CANCELLED
    assert core.status(claim.lease.execution_id) is Status.COMPLETED
    core.assert_consistent()


@pytest.mark.requirement("F12")
def test_a_thousand_children_are_cancelled_with_their_parent(core: Core) -> None:
    claim = core.running()
    for number in (1, 2):
        start_children(core, claim, 500, number=number)

    core.cancel(core.actor, [claim.lease.execution_id])

    with core.database.autocommit() as connection:
        query = "SELECT count(*) FROM executions WHERE status = 'cancelled'"
        assert connection.exec_driver_sql(query).scalar_one() == 1000
    core.assert_consistent()


def running_siblings(core: Core) -> int:
    """Return how many children may run or do."""
    query = """SELECT count(*) FROM executions
               WHERE parent_id IS NOT NULL AND completed_at IS NULL AND held IS NULL"""
    with core.database.autocommit() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


@pytest.mark.parametrize("end", ["completed", "failed", "worker lost", "cancelled"])
def test_as_many_siblings_run_as_their_parent_allows(core: Core, end: str) -> None:
    claim, children = parent_of(core, 5, parallel=2)
    core.end(claim, FOR_CHILDREN)

    for place, child in enumerate(children):
        assert running_siblings(core) == min(2, 5 - place)
        assert core.get(child).held is None
        ENDS[end](core, child)

    assert core.status(claim.lease.execution_id) is Status.PENDING
    core.assert_consistent()


def test_a_sibling_that_no_end_has_released_is_released_by_the_keeper(core: Core) -> None:
    claim, children = parent_of(core, 3, parallel=1)
    core.execute(
        "UPDATE executions SET status = 'pending', held = 'parallel' WHERE id = :id",
        id=children[0],
    )

    assert core.recover.release_siblings(100) == 1
    assert core.recover.release_siblings(100) == 0

    assert [core.get(each).held for each in children] == [None, Held.PARALLEL, Held.PARALLEL]
    core.cancel(core.actor, [claim.lease.execution_id])


def test_ends_at_once_release_as_many_siblings(core: Core) -> None:
    claim, children = parent_of(core, 40, parallel=8)
    core.end(claim, FOR_CHILDREN)
    for start in range(0, 40, 8):
        claims = [claim_of(core, child) for child in children[start : start + 8]]
        together([partial(core.end, each, Completed(1)) for each in claims])
        core.recover.release_siblings(100)
        assert running_siblings(core) == min(8, 32 - start)

    assert core.status(claim.lease.execution_id) is Status.PENDING
    core.assert_consistent()


def test_an_end_that_began_before_the_parent_was_parked_resumes_it(core: Core) -> None:
    """Its statement sees the parent run, and waits for a counter while the parent is parked."""
    claim, (child,) = parent_of(core)
    ending = claim_of(core, child)
    parent = claim.lease.execution_id
    with ThreadPoolExecutor(1) as threads:
        with core.database.transaction() as holder:
            holder.execute(text("SELECT FROM live_children FOR UPDATE"))
            ended = threads.submit(core.end, ending, Completed(1))
            wait_until(lambda: _waits_for_lock(core), "the end waits")
            core.end(claim, FOR_CHILDREN)
            assert core.status(parent) is Status.WAITING
        ended.result(timeout=20)

    assert core.status(parent) is Status.PENDING
    assert resumed(core, parent) == 1
    core.assert_consistent()


def _waits_for_lock(core: Core) -> bool:
    query = """SELECT count(*) FROM pg_stat_activity
               WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    with core.database.autocommit() as connection:
        return bool(connection.exec_driver_sql(query).scalar_one())
