"""One budget for a tree of executions."""

from decimal import Decimal
from uuid import UUID

import pytest

from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import BudgetSpentError
from celeriac.domain.executions.model import Claim, SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.steps import NewChildren
from celeriac.services.budgets.manage import Budgets
from celeriac.services.catalog.specs import SpecCache
from tests.support.core import Core
from tests.support.families import children_of, claim_of, run_step, steps_of, task_name
from tests.support.spending import Spending, made, planned

pytestmark = pytest.mark.anyio

ONE_DOLLAR = Budget(max_cost=Decimal("0.05"))


def root_of(core: Core, budget: Budget | None) -> Claim:
    request = SubmitRequest(task_id=core.task, options=RunOptions(budget=budget))
    return claim_of(core, core.submit(core.actor, request).execution_id)


async def spend(spending: Spending, claim: Claim, cost: str) -> None:
    reserved = await spending.admit(claim, planned(cost=cost), park=False)
    await spending.charge(claim, made(cost=cost), reserved)


@pytest.mark.requirement("F12")
async def test_children_spend_the_budget_of_their_root(core: Core) -> None:
    spending = Spending(core)
    root = root_of(core, ONE_DOLLAR)
    child = claim_of(core, await _start(core, root))
    grandchild = claim_of(core, await _start(core, child))

    await spend(spending, root, "0.02")
    await spend(spending, child, "0.02")
    await spend(spending, grandchild, "0.01")
    with pytest.raises(BudgetSpentError, match=r"0\.05"):
        await spending.admit(grandchild, planned(cost="0.01"), park=False)

    assert spending.window(root.lease.execution_id)[0] == Decimal("0.05")
    assert grandchild.options.tree is not None
    assert grandchild.options.tree.execution_id == root.lease.execution_id


async def test_a_child_has_the_budget_of_its_own_too(core: Core) -> None:
    spending = Spending(core)
    root = root_of(core, ONE_DOLLAR)
    child = claim_of(core, await _start(core, root))
    own = Budget(max_cost=Decimal("0.01"), on_budget=OnBudget.STOP)

    reserved = await spending.admit(child, planned(cost="0.01"), budget=own, park=False)
    await spending.charge(child, made(cost="0.01"), reserved, budget=own)
    with pytest.raises(BudgetSpentError, match=r"0\.01"):
        await spending.admit(child, planned(cost="0.01"), budget=own, park=False)

    assert spending.window(root.lease.execution_id)[0] == Decimal("0.01")
    assert spending.window(child.lease.execution_id)[0] == Decimal("0.01")


async def test_without_a_budget_at_the_root_a_child_has_none(core: Core) -> None:
    child = claim_of(core, await _start(core, root_of(core, None)))

    assert child.options.tree is None


async def test_the_budgets_of_a_child_show_the_shared_one(core: Core) -> None:
    root = root_of(core, ONE_DOLLAR)
    child = await _start(core, root)

    (state,) = Budgets(core.database, SpecCache(core.database), core.live).of_execution(
        core.actor, child
    )

    assert (state.budget_id, state.max_cost) == (root.lease.execution_id, ONE_DOLLAR.max_cost)


async def test_a_repeated_child_has_no_share(core: Core) -> None:
    root = root_of(core, ONE_DOLLAR)
    child = await _start(core, root)
    core.cancel(core.actor, [child])

    again = core.submit.repeat(core.actor, child).execution_id

    assert core.get(again).options.tree is None
    assert core.get(again).parent_id is None
    assert core.status(child) is Status.CANCELLED


async def _start(core: Core, claim: Claim) -> UUID:
    steps = steps_of(core, claim)
    new = NewChildren(task=task_name(core), places=[0], variables=[{}])
    await steps.start(1, new, run_step())
    return children_of(core, claim.lease.execution_id)[0]
