"""A worker that lost its lease can write nothing, whatever it tries."""

from dataclasses import replace
from uuid import uuid4

import pytest

from celeriac.db.executions import leases
from celeriac.db.executions.leases import Held, PendingWrites, Renewed
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Lease,
    Outcome,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from tests.support.core import LEASE_SECONDS, Core

FAILURE = Failure("agent_failed", "it failed")
OUTCOMES: list[Outcome] = [
    Completed("mine"), Failed(FAILURE), Retry(FAILURE, 1.0), Stopped(), HandedBack(),
]  # fmt: skip


def stale_leases(lease: Lease) -> dict[str, Lease]:
    return {
        "another token": replace(lease, token=uuid4()),
        "an earlier attempt": replace(lease, attempt=lease.attempt - 1),
        "a later attempt": replace(lease, attempt=lease.attempt + 1),
        "another execution": replace(lease, execution_id=uuid4()),
    }


def notes(lease: Lease) -> PendingWrites:
    call = ModelCall("p", "m", input_tokens=1, output_tokens=1)
    return PendingWrites(lease, [NewEvent(EventType.CUSTOM, "{}")], [call], (1.0, 2.0, "half"))


@pytest.fixture
def robbed(core: Core) -> Claim:
    """A claim whose execution was rescued and is run by another worker now."""
    claim = core.running("slow")
    core.pass_time(LEASE_SECONDS + 1)
    assert core.rescue() == 1
    core.pass_time(10)
    core.dispatch.send_due()
    assert core.claim(core.message(claim.lease.execution_id), "quick") is not None
    return claim


@pytest.mark.parametrize("kind", stale_leases(Lease(uuid4(), 1, uuid4())))
def test_every_part_of_a_lease_counts(core: Core, kind: str) -> None:
    claim = core.running()
    before = core.snapshot(claim.lease.execution_id)
    stale = stale_leases(claim.lease)[kind]
    with core.database.autocommit() as connection:
        assert leases.store_batch(connection, [notes(stale)]) == set()
    for outcome in OUTCOMES:
        assert core.end(replace(claim, lease=stale), outcome).status is None
    assert core.snapshot(claim.lease.execution_id) == before


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda each: type(each).__name__)
def test_a_robbed_worker_can_t_finish(core: Core, robbed: Claim, outcome: Outcome) -> None:
    before = core.snapshot(robbed.lease.execution_id)
    assert core.end(robbed, outcome).status is None
    assert core.finish(robbed, outcome, [notes(robbed.lease)], None).status is None
    assert core.snapshot(robbed.lease.execution_id) == before


def test_a_robbed_worker_learns_it_from_its_heartbeat(core: Core, robbed: Claim) -> None:
    lost = core.workers["slow"]
    held = core.running("slow")
    assert held.lease.execution_id != robbed.lease.execution_id
    with core.database.autocommit() as connection:
        assert leases.renew(connection, lost.id, lease_seconds=60) is None
        another = core.workers["slow"].id
        assert leases.renew(connection, another, lease_seconds=60) == Renewed(
            [Held(held.lease, False)], paused=False
        )


def test_a_lease_that_ran_out_is_still_good_while_nobody_took_it(core: Core) -> None:
    claim = core.running()
    core.pass_time(LEASE_SECONDS * 10)
    with core.database.autocommit() as connection:
        kept = leases.renew(connection, core.workers["w"].id, lease_seconds=LEASE_SECONDS)
    assert kept == Renewed([Held(claim.lease, False)], paused=False)
    assert core.rescue() == 0, "a renewed lease was taken"
    assert core.end(claim, Completed(1)).status is Status.COMPLETED


def test_a_finished_attempt_holds_no_lease(core: Core) -> None:
    claim = core.running()
    core.end(claim, Completed(1))
    with core.database.autocommit() as connection:
        assert leases.renew(connection, core.workers["w"].id, lease_seconds=60) == Renewed(
            [], paused=False
        )
        assert leases.store_batch(connection, [notes(claim.lease)]) == set()
    core.assert_consistent()
