"""Bounds of durable functions: of places, of trees, and of the results of children."""

import asyncio
from uuid import UUID

import pytest

from celeriac.domain.errors import StepsChangedError, TreeLimitError
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.steps import (
    MAX_RESULTS_BYTES,
    NewChildren,
    NewStep,
    StepKind,
    StepStatus,
)
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.steps import AttemptSteps
from tests.support.core import Core
from tests.support.families import children_of, claim_of, run_step, steps_of, task_name
from tests.support.spending import job_of, services_of

pytestmark = pytest.mark.requirement("F11")


def new_step(number: int, path: str | None, name: str) -> NewStep:
    return NewStep(
        number=number,
        path=path,
        name=name,
        kind=StepKind.STEP,
        status=StepStatus.COMPLETED,
        result="1",
    )


@pytest.mark.parametrize("path", ["3.0.1", None], ids=["a place", "a name"])
def test_of_two_calls_that_race_for_one_place_one_is_stored(core: Core, path: str | None) -> None:
    steps = steps_of(core, core.running())

    async def race() -> list[object]:
        both = (steps.store(new_step(number, path, "pay")) for number in (1, 2))
        return list(await asyncio.gather(*both, return_exceptions=True))

    found = asyncio.run(race())

    errors = [each for each in found if each is not None]
    assert len(errors) == 1, found
    assert isinstance(errors[0], StepsChangedError)
    assert "'pay' can't be stored" in errors[0].message
    assert "ctx.gather" in errors[0].message
    assert core.count("steps") == 1
    asyncio.run(steps.store(new_step(3, "3.0.2", "pay")))
    core.assert_consistent()


def start(core: Core, claim: Claim, number: int, width: int, most: int) -> list[UUID]:
    services = services_of(core.database, core.live, core.queue, tree_executions=most)
    steps = AttemptSteps(services.steps, Attempt(claim.lease), job_of(claim))
    new = NewChildren(
        task=task_name(core), places=range(width), variables=[{"n": n} for n in range(width)]
    )
    asyncio.run(steps.start(number, new, run_step(number, width=width)))
    return list(children_of(core, claim.lease.execution_id, number))


def test_a_tree_starts_so_many_executions_and_no_more(core: Core) -> None:
    """All generations count, also children that have ended; other trees don't."""
    root = core.running()
    first, _ = start(core, root, 1, 2, most=4)
    child = claim_of(core, first)
    (grandchild,) = start(core, child, 1, 1, most=4)
    core.end(claim_of(core, grandchild), Completed(1))

    with pytest.raises(TreeLimitError) as refused:
        start(core, child, 2, 2, most=4)

    assert "may start 4 executions" in refused.value.message
    assert "CELERIAC_WORKER_TREE_EXECUTIONS" in refused.value.message
    assert core.count("executions") == 4, "nothing was stored"
    assert len(start(core, child, 2, 1, most=4)) == 1
    with pytest.raises(TreeLimitError):
        start(core, root, 2, 1, most=4)
    assert len(start(core, core.running(), 1, 4, most=4)) == 4, "a tree of its own"
    core.assert_consistent()


@pytest.mark.anyio
async def test_results_are_compared_with_the_limit_before_they_are_read(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.services.executions.steps._RESULTS_PAGE", 2)
    root = core.running()
    steps = steps_of(core, root)
    new = NewChildren(task=task_name(core), places=range(5), variables=[{"n": n} for n in range(5)])
    await steps.start(1, new, run_step(1, width=5))
    for child in children_of(core, root.lease.execution_id):
        core.end(claim_of(core, child), Completed("é" * 1_000))

    found = await steps.results(1, most_bytes=5 * 2_202)

    assert found is not None
    assert [found[n].result for n in range(5)] == ["é" * 1_000] * 5
    assert await steps.results(1, most_bytes=5 * 2_202 - 1) is None
    known = await steps.children(1)
    assert {each.status for each in known.values()} == {Status.COMPLETED}
    assert {each.result for each in known.values()} == {None}
    assert MAX_RESULTS_BYTES < 16 * 1024 * 1024, "a line for a child process has as much"
