"""Many executions under one budget, with the real pipeline and a scripted model."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.domain.budget import Budget, BudgetScope, OnBudget, Period
from celeriac.domain.options import RunOptions
from celeriac.domain.outcome import WaitingFor
from celeriac.domain.states import Status
from celeriac.services.budgets import Budgets
from celeriac.settings import Settings
from tests.support.model_server import Exchange
from tests.support.model_worker import MODEL, ModelWorker, model_worker

CALL_TOKENS = 15
CALL_COST = Decimal("0.02")
TEN_CALLS = {"max_tokens": 10 * CALL_TOKENS, "max_cost": 10 * CALL_COST}


def greet(exchange: Exchange) -> None:
    """Answer with ten tokens in and five out, slowly enough for calls to meet."""
    time.sleep(0.05)
    exchange.answer("Hello")


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[ModelWorker]:
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({MODEL: {"input": 1000, "output": 2000}}))
    with model_worker(settings, {"greet": greet}, prices_file=prices, home=tmp_path) as running:
        yield running


@pytest.mark.requirement("E5")
def test_fifty_at_once_spend_no_more_than_their_task_may(worker: ModelWorker) -> None:
    task = worker.task("greet me")
    budgets = Budgets(worker.container.database, worker.container.plans)
    stored = budgets.put(
        worker.actor, BudgetScope.TASK, task, Period.DAY, Budget.model_validate(TEN_CALLS)
    )
    ids = worker.submit(task, 50)

    for _ in range(30):
        worker.work()
        worker.pass_waiting()
        if all(worker.get(each).status.terminal for each in ids):
            break

    found = worker.by_status(ids)
    standing = budgets.get(worker.actor, stored.id).standing
    assert len(found[Status.COMPLETED]) == len(worker.server.received) == 10
    assert {each.error_code for each in found[Status.FAILED]} == {"budget_spent"}
    assert len(found[Status.FAILED]) == 40
    assert (standing.spent_tokens, standing.spent_cost) == (150, 10 * CALL_COST)
    assert (standing.reserved_tokens, standing.reserved_cost) == (0, 0)
    assert not standing.exceeded


def test_those_that_ask_are_parked_and_go_on_once_more_is_allowed(worker: ModelWorker) -> None:
    task = worker.task("greet me")
    budget = Budget(max_tokens=CALL_TOKENS, on_budget=OnBudget.ASK)
    (first, second) = worker.submit(task, 2, RunOptions(budget=budget))

    worker.work()

    assert {worker.get(each).status for each in (first, second)} == {Status.COMPLETED}, (
        "each has a budget of its own"
    )
    assert worker.get(first).waiting_for is not WaitingFor.BUDGET
