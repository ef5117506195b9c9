"""Fair turns: nobody's thousands hold up what others submit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db.executions import lifecycle
from celeriac.db.executions.lifecycle import MoreClaims
from celeriac.db.executions.waiting_owners import OwnersAfter, waiting_owners
from celeriac.domain.executions.fair_turns import Owner, Share
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from celeriac.services.executions.fair_turns import FairTurns
from tests.support.core import Core

pytestmark = pytest.mark.requirement("F14")


def owner(workspace: int, user: int) -> Owner:
    return Owner(UUID(int=workspace), UUID(int=user))


def wait(
    core: Core, who: Owner, count: int, priority: Priority = Priority.NORMAL
) -> Sequence[UUID]:
    """Let so many executions of an owner wait, the first ones longest."""
    ids = core.pending_many([{}] * count)
    core.execute(
        "UPDATE executions SET workspace_id = :workspace, owner_id = :user, priority = :priority"
        " WHERE id = ANY (CAST(:ids AS uuid[]))",
        workspace=who.workspace_id, user=who.user_id, priority=int(priority), ids=list(ids),
    )  # fmt: skip
    core.dispatch.turns.found(DEFAULT_QUEUE)
    return ids


def owners(core: Core, ids: Sequence[UUID]) -> list[Owner]:
    """Return whose executions these are."""
    found = [core.get(each) for each in ids]
    return [Owner(each.workspace_id, each.owner_id) for each in found]


def versions(core: Core) -> list[UUID]:
    with core.database.autocommit() as connection:
        found = connection.execute(text("SELECT DISTINCT agent_version_id FROM executions"))
        return list(found.scalars())


def claim_next(core: Core, claim: Claim) -> Claim | None:
    """End an attempt and claim the next execution in turn, as a slot does."""
    turns = core.dispatch.turns
    wanted = replace(core.next_claim(), shares=turns.next(DEFAULT_QUEUE, 1))
    with core.database.autocommit() as connection:
        finished = lifecycle.finish(connection, claim.lease, Completed(None), wanted)
    return finished.claim


def claim_more(core: Core, count: int) -> list[Claim]:
    """Claim several executions in turn, as coroutines do."""
    turns = core.dispatch.turns.next(DEFAULT_QUEUE, count)
    return claim_in(core, turns, count)


def claim_in(core: Core, shares: Sequence[Share], count: int) -> list[Claim]:
    more = MoreClaims(core.worker(), [uuid4() for _ in range(count)], versions(core), shares)
    with core.database.autocommit() as connection:
        return lifecycle.claim_more(connection, DEFAULT_QUEUE, more)


def test_one_of_another_user_is_next_behind_thousands(core: Core) -> None:
    first = core.running()
    wait(core, owner(1, 1), 2_000)
    (late,) = wait(core, owner(1, 2), 1)

    second = claim_next(core, first)
    assert second is not None
    third = claim_next(core, second)
    assert third is not None

    assert late in {second.lease.execution_id, third.lease.execution_id}


def test_places_are_shared_between_workspaces_and_then_between_users(core: Core) -> None:
    for user in range(1, 5):
        wait(core, owner(1, user), 40)
    wait(core, owner(2, 9), 40)

    claims = claim_more(core, 40)

    found = Counter(owners(core, [each.lease.execution_id for each in claims]))
    assert found == {owner(2, 9): 20, **{owner(1, user): 5 for user in range(1, 5)}}


def test_what_is_sent_takes_turns_too(core: Core) -> None:
    many = wait(core, owner(1, 1), 100)
    few = wait(core, owner(2, 2), 3)
    core.execute("UPDATE executions SET status = 'pending', held = NULL, queued_at = NULL")

    assert core.dispatch.send_due() == 16

    assert all(core.status(each) is Status.QUEUED for each in few)
    assert Counter(core.status(each) for each in many)[Status.QUEUED] == 13


def test_a_higher_priority_comes_before_all_turns(core: Core) -> None:
    claim = core.running()
    wait(core, owner(1, 1), 10)
    wait(core, owner(2, 2), 10)
    assert len(core.dispatch.turns.next(DEFAULT_QUEUE, 2)) == 2, "both are known"
    (urgent,) = wait(core, owner(3, 3), 1, Priority.CRITICAL)

    following = claim_next(core, claim)

    assert following is not None
    assert following.lease.execution_id == urgent


def test_turns_of_those_who_are_gone_go_to_others(core: Core) -> None:
    wait(core, owner(1, 1), 5)
    gone = wait(core, owner(2, 2), 5)
    shares = core.dispatch.turns.next(DEFAULT_QUEUE, 10)
    assert sum(each.count for each in shares) == 10
    core.execute("DELETE FROM executions WHERE id = ANY (CAST(:ids AS uuid[]))", ids=list(gone))

    assert len(claim_in(core, shares, 10)) == 5


def test_all_who_wait_are_found_page_by_page(core: Core) -> None:
    everybody = {(workspace, user) for workspace in range(1, 6) for user in range(1, 6)}
    for workspace, user in everybody:
        wait(core, owner(workspace, user), 1)
    found: set[tuple[int, int]] = set()
    after = OwnersAfter()
    with core.database.autocommit() as connection:
        for _ in range(9):
            page = waiting_owners(connection, DEFAULT_QUEUE, after, workspaces=2, users=2)
            assert sum(map(len, page.users.values())) <= 4
            found |= {(of.int, user.int) for of, users in page.users.items() for user in users}
            after = page.next

    assert found == everybody


def test_queues_in_which_nothing_waits_any_more_are_forgotten(core: Core) -> None:
    now = 0.0
    turns = FairTurns(core.database, now=lambda: now)
    for number in range(1_000):
        turns.found(f"queue-{number}")
    now = 60.0
    turns.found("another")
    assert list(turns._queues) == ["another"]


def test_nobody_looks_while_nothing_has_waited(core: Core) -> None:
    assert core.dispatch.turns.next(DEFAULT_QUEUE, 5) == ()
    assert core.dispatch.turns.known(lambda _: 5) == []
