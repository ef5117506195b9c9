"""Reservations and settlements, on the real database."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text

from celeriac.db.budgets import management
from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import AgentMisconfiguredError, BudgetSpentError, LeaseLostError
from celeriac.domain.executions.model import Completed, MustWaitError, SubmitRequest
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import CallEstimate, Clip, Reservation
from tests.support.catalog import make_colleague
from tests.support.core import Core
from tests.support.spending import Spending, made, planned

pytestmark = pytest.mark.anyio

TEN_TOKENS = Budget(max_tokens=10)


async def test_without_a_budget_nothing_is_reserved(core: Core, spending: Spending) -> None:
    claim = core.running()

    reservation = await spending.admit(claim, planned())
    await spending.charge(claim, made(), reservation)

    assert reservation is None
    assert core.count("budget_windows") == 0


async def test_what_is_reserved_is_settled_with_what_was_used(
    core: Core, spending: Spending
) -> None:
    claim, budget = core.running(), Budget(max_tokens=100, max_cost=Decimal(1))
    own = claim.lease.execution_id

    reservation = await spending.admit(claim, planned(40, "0.04"), budget=budget)
    assert spending.window(own) == (0, 0, Decimal("0.04"), 40)
    await spending.charge(claim, made(25, "0.02"), reservation, budget=budget)

    assert spending.window(own) == (Decimal("0.02"), 25, 0, 0)
    assert core.count("budget_reservations") == 0


async def test_a_spent_budget_stops_the_next_call(core: Core, spending: Spending) -> None:
    claim = core.running()
    reservation = await spending.admit(claim, planned(10), budget=TEN_TOKENS)
    await spending.charge(claim, made(10), reservation, budget=TEN_TOKENS)

    with pytest.raises(BudgetSpentError, match=r"10 of 10 tokens") as caught:
        await spending.admit(claim, planned(1), budget=TEN_TOKENS)

    assert caught.value.details["spent_tokens"] == 10


async def test_a_call_beyond_the_rest_is_let_through_only_alone(
    core: Core, spending: Spending
) -> None:
    claim = core.running()
    first = await spending.admit(claim, planned(1_000), budget=TEN_TOKENS)

    with pytest.raises(MustWaitError) as caught:
        await spending.admit(claim, planned(1), budget=TEN_TOKENS)
    assert caught.value.parked.reason is WaitingFor.BUDGET
    assert caught.value.parked.seconds is not None, "it comes back by itself"

    await spending.charge(claim, made(8), first, budget=TEN_TOKENS)
    assert await spending.admit(claim, planned(1_000), budget=TEN_TOKENS) is not None


async def test_who_can_not_be_parked_waits_for_the_others(core: Core, spending: Spending) -> None:
    claim = core.running()
    first = await spending.admit(claim, planned(10), budget=TEN_TOKENS)
    second = asyncio.create_task(spending.admit(claim, planned(5), budget=TEN_TOKENS, park=False))
    await asyncio.sleep(0)

    await spending.charge(claim, made(5), first, budget=TEN_TOKENS)

    assert isinstance(await second, Reservation)


async def test_many_at_once_reserve_no_more_than_there_is(core: Core, spending: Spending) -> None:
    budget = Budget(max_tokens=105, max_cost=Decimal(100))
    claim = core.running()

    async def ask() -> Reservation | None:
        try:
            return await spending.admit(claim, planned(10), budget=budget)
        except MustWaitError:
            return None

    reservations = await asyncio.gather(*(ask() for _ in range(20)))

    assert sum(reservation is not None for reservation in reservations) == 10
    assert spending.window(claim.lease.execution_id)[3] == 100


async def test_money_can_not_hold_a_model_without_a_price(core: Core, spending: Spending) -> None:
    with pytest.raises(AgentMisconfiguredError, match="CELERIAC_PRICES_FILE"):
        await spending.admit(core.running(), planned(cost=None), budget=Budget(max_cost=Decimal(1)))


async def test_a_lost_lease_reserves_nothing(core: Core, spending: Spending) -> None:
    claim = core.running()
    core.end(claim, Completed(None))

    with pytest.raises(LeaseLostError):
        await spending.admit(claim, planned(), budget=TEN_TOKENS)
    assert core.count("budget_reservations") == 0


async def test_reservations_of_lost_attempts_are_released_once(
    core: Core, spending: Spending
) -> None:
    lost, running = core.running("lost"), core.running("live")
    reservation = await spending.admit(lost, planned(4), budget=TEN_TOKENS)
    await spending.admit(running, planned(3), budget=TEN_TOKENS)
    core.pass_time(3600)
    core.worker("live")
    core.rescue()

    assert spending.release() == 1
    assert spending.release() == 0
    assert spending.window(lost.lease.execution_id) == (0, 0, 0, 0)
    assert spending.window(running.lease.execution_id)[3] == 3

    await spending.charge(lost, made(7), reservation, budget=TEN_TOKENS)
    assert spending.window(lost.lease.execution_id)[:2] == (Decimal("0.01"), 7), (
        "what it used all the same is spent"
    )


async def test_a_charge_that_was_not_asked_for_ends_the_run_beyond_the_budget(
    core: Core, spending: Spending
) -> None:
    claim = core.running()
    await spending.charge(claim, made(10), None, budget=TEN_TOKENS)

    with pytest.raises(BudgetSpentError):
        await spending.charge(claim, made(5), None, budget=TEN_TOKENS)

    assert spending.window(claim.lease.execution_id)[1] == 15, "the overshoot is booked"


async def test_one_that_asks_waits_for_a_person(core: Core, spending: Spending) -> None:
    budget = Budget(max_tokens=10, on_budget=OnBudget.ASK)
    claim = core.running()
    await spending.charge(claim, made(10), None, budget=budget)

    with pytest.raises(MustWaitError) as caught:
        await spending.admit(claim, planned(), budget=budget)

    (question,) = caught.value.parked.questions
    assert question.key == f"budget:{claim.lease.execution_id}:run:0"
    assert "10 of 10 tokens" in question.title


async def test_two_at_once_can_not_both_take_the_rest(core: Core, spending: Spending) -> None:
    budget = Budget(max_tokens=100)
    claim, call = core.running(), CallEstimate("test", "model", 20, 500, least_tokens=21)

    async def ask() -> Reservation | None:
        try:
            return await spending.admit(claim, call, budget=budget)
        except MustWaitError:
            return None

    first, second = sorted(
        await asyncio.gather(ask(), ask()), key=lambda reservation: reservation is None
    )

    assert second is None
    assert first is not None
    assert first.clip == Clip(80, "execution's budget")


async def test_money_clips_an_answer_too(core: Core, spending: Spending) -> None:
    call = CallEstimate(
        "test",
        "model",
        20,
        500,
        Decimal("5.20"),
        input_cost=Decimal("0.20"),
        least_tokens=21,
        least_cost=Decimal("0.11"),
    )

    reservation = await spending.admit(core.running(), call, budget=Budget(max_cost=Decimal(1)))
    assert reservation is not None
    assert reservation.clip == Clip(80, "execution's budget")

    with pytest.raises(BudgetSpentError, match=r"at least \$0\.11, \$0\.10 are left"):
        await spending.admit(core.running(), call, budget=Budget(max_cost=Decimal("0.1")))


async def test_a_window_begins_without_what_was_replayed(core: Core, spending: Spending) -> None:
    claim = core.running()
    assert claim.task_id is not None
    with core.database.transaction() as connection:
        for provider in ("cassette/test", "test"):
            connection.execute(
                text(
                    "INSERT INTO usage_days (workspace_id, owner_id, day, task_id, provider, model,"
                    " calls, unpriced_calls, input_tokens, output_tokens, cached_tokens, cost)"
                    " VALUES (:workspace, :owner, CAST(now() AT TIME ZONE 'UTC' AS date), :task,"
                    " :provider, 'm', 1, 0, 40, 2, 0, 0)"
                ),
                {
                    "workspace": claim.workspace_id,
                    "owner": claim.owner_id,
                    "task": claim.task_id,
                    "provider": provider,
                },
            )
        own = management.put(
            connection,
            scope=BudgetScope.TASK,
            subject_id=claim.task_id,
            workspace_id=claim.workspace_id,
            owner_id=claim.owner_id,
            period=Period.DAY,
            budget=Budget(max_tokens=1_000),
        )

    await spending.another_process().admit(claim, planned(10))

    assert spending.window(own)[1] == 42


async def test_a_budget_of_a_workspace_holds_all_its_members_and_nobody_else(
    core: Core, spending: Spending
) -> None:
    with core.database.transaction() as connection:
        limit = management.put(
            connection,
            scope=BudgetScope.WORKSPACE,
            subject_id=core.actor.workspace_id,
            workspace_id=core.actor.workspace_id,
            owner_id=core.actor.user_id,
            period=Period.DAY,
            budget=TEN_TOKENS,
        )
    claim = core.running()
    await spending.charge(claim, made(10), await spending.admit(claim, planned(10)))
    assert spending.window(limit)[1] == 10

    colleague = make_colleague(core.database, core.actor)
    sent = core.submit(colleague, SubmitRequest(task_id=core.task)).execution_id
    other = core.claim(core.message(sent))
    assert other is not None
    with pytest.raises(BudgetSpentError, match="workspace's budget of"):
        await spending.admit(other, planned(1))

    stranger = replace(other, workspace_id=uuid4(), owner_id=uuid4())
    assert await spending.admit(stranger, planned(1)) is None
