"""Limits of tasks whose executions are items of workflows, or children of others."""

from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.executions.model import (
    Claim,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.limits import ConcurrencyLimit
from celeriac.domain.workflows.states import RunStatus
from tests.support.core import Core
from tests.support.families import FOR_CHILDREN, start_children
from tests.support.task_limits import (
    KEY,
    end,
    keep,
    limited,
    start,
    submit,
)
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("F13")


def settle(flows: Flows, run_id: UUID) -> int:
    """Run a workflow to its end; return how many of one key ran at once at most."""
    most = 0
    claims: list[Claim] = []
    while not flows.ran(run_id).status.terminal:
        keep(flows.core)
        while (claim := flows.take()) is not None:
            claims.append(claim)
        assert claims, "nothing can run"
        keys = [each.variables["key"] for each in claims]
        most = max(most, *(keys.count(key) for key in keys))
        flows.core.assert_consistent()
        flows.end(claims.pop(0))
    return most


@pytest.mark.parametrize("parallel", [None, 3])
def test_items_of_workflows_have_the_limits_of_their_task(core: Core, parallel: int | None) -> None:
    flows = Flows(core)
    flows.add_task("work", concurrency=[ConcurrencyLimit(key=KEY, max=1)])
    step: dict[str, Any] = {"task": "work", "map": "input.keys", "with": {"key": "${{ item }}"}}
    if parallel is not None:
        step["parallel"] = parallel
    run_id = flows.start(
        flows.define("w", {"each": step}, input={"keys": "array"}),
        keys=["a", "b", "a", "a", "b", "c"],
    )
    assert settle(flows, run_id) == 1
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    assert core.count("execution_limits") == 0
    core.assert_consistent()


@pytest.mark.failure("Q11")
def test_an_item_whose_key_can_t_be_computed_fails_and_holds_up_nothing(core: Core) -> None:
    flows = Flows(core)
    flows.add_task("work", concurrency=[ConcurrencyLimit(key=KEY, max=1)])
    run_id = flows.start(flows.define("w", {"one": {"task": "work"}}))
    flows.keep()
    assert flows.ran(run_id).status is RunStatus.FAILED


@pytest.mark.failure("Q6")
@pytest.mark.parametrize("parallel", [None, 2])
def test_a_parent_holds_no_slot_for_which_its_children_wait(
    core: Core, parallel: int | None
) -> None:
    core = limited(core, {"key": "'all'", "max": 1})
    parent = submit(core)
    claim = start(core, parent)
    children = start_children(core, claim, 3, parallel=parallel)
    keep(core)
    assert not any(core.status(each) is Status.QUEUED for each in children)
    core.end(claim, FOR_CHILDREN)
    for _ in children:
        keep(core)
        (following,) = [each for each in children if core.status(each) is Status.QUEUED]
        core.assert_consistent()
        end(core, start(core, following))
    keep(core)
    end(core, start(core, parent))
    assert core.count("execution_limits") == 0
    core.assert_consistent()
