"""Ends that nothing counts have a cheaper statement, which ends nothing else."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from celeriac.db.executions import lifecycle
from celeriac.db.executions.guards import filled, not_counted
from celeriac.db.executions.lifecycle import Ending
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status, Transition
from tests.support.core import Core

_FAILURE = Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1})
OUTCOMES: list[Ending] = [
    Completed({"n": 1}), Failed(_FAILURE), Stopped(), Retry(_FAILURE, 2.0), HandedBack()
]  # fmt: skip
COUNTED = {
    "an item of a workflow": "UPDATE executions SET run_id = :other, step_no = 1, item_no = 0"
    " WHERE id = :id",
    "a child": "UPDATE executions SET parent_id = :other, parent_step = 1 WHERE id = :id",
    "a Celery task's": "UPDATE executions SET trigger_type = 'celery' WHERE id = :id",
    "a parent": "INSERT INTO live_children (execution_id, shard, live) VALUES (:id, 0, 1)",
}


def make_counted(core: Core, claim: Claim, kind: str) -> None:
    parameters = {"id": claim.lease.execution_id}
    if ":other" in COUNTED[kind]:
        parameters["other"] = uuid4()
    with core.database.autocommit() as connection:
        assert connection.execute(text(COUNTED[kind]), parameters).rowcount == 1


def counted(core: Core, kind: str) -> Claim:
    claim = core.running()
    make_counted(core, claim, kind)
    return claim


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
@pytest.mark.parametrize("kind", COUNTED)
def test_the_cheaper_statement_ends_nothing_that_is_counted(
    core: Core, kind: str, outcome: Ending
) -> None:
    claims = [counted(core, kind), core.running()]
    with core.database.autocommit() as connection:
        done = lifecycle.finish_group(
            connection,
            [lifecycle.end_values(each.lease, outcome) for each in claims],
            counted=False,
        )
    assert set(done.status) == {claims[1].lease.execution_id}
    assert core.get(claims[0].lease.execution_id).status is Status.RUNNING


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
@pytest.mark.parametrize("kind", COUNTED)
def test_alone_what_is_counted_ends_by_the_other_statement(
    core: Core, kind: str, outcome: Ending
) -> None:
    claim = counted(core, kind)
    with core.database.autocommit() as connection:
        done = lifecycle.finish(connection, claim.lease, outcome, counted=False)
        again = lifecycle.finish(connection, claim.lease, outcome, counted=False)
        orphans = connection.execute(text("SELECT execution_id FROM ended_parents")).scalars().all()
    stored = core.get(claim.lease.execution_id)
    assert done.status is stored.status is again.status is not Status.RUNNING
    assert again.again
    assert orphans == ([stored.id] if kind == "a parent" and stored.status.terminal else [])


@pytest.mark.parametrize("kind", COUNTED)
def test_a_claim_says_what_counts_it(core: Core, kind: str) -> None:
    claim = core.running()
    assert not claim.is_counted
    core.end(claim, HandedBack())
    make_counted(core, claim, kind)
    again = core.claim_again(claim)
    # children are not read: only an attempt that starts some has them
    assert again.is_counted is (kind != "a parent")


def test_a_variant_without_the_guard_is_refused() -> None:
    statement = (
        "WITH done AS (UPDATE executions e SET status = {end_to} WHERE id = :id"
        " RETURNING {ended_columns}){ended_not_counted} SELECT FROM done"
    )
    with pytest.raises(ValueError, match="ends executions without"):
        filled(statement, end=Transition.COMPLETE)
    with pytest.raises(ValueError, match="no variant"):
        not_counted(statement, condition="WHERE id = :id")
