"""Many executions under one budget, with the real pipeline and a scripted model."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.db import audit
from celeriac.domain.accounts import Role
from celeriac.domain.approvals import Answer
from celeriac.domain.audit import AuditFilter
from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import ForbiddenError, NotFoundError
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.settings import Settings
from tests.support.catalog import make_actor
from tests.support.consistency import assert_consistent
from tests.support.model_server import Exchange
from tests.support.model_worker import MODEL, ModelWorker, model_worker, until

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
    budgets = worker.budgets
    stored = budgets.put(
        worker.actor, BudgetScope.TASK, task, Period.DAY, Budget.model_validate(TEN_CALLS)
    )
    ids = worker.submit(task, 50)

    until(lambda: all(worker.get(each).status.terminal for each in ids), worker.go_on, rounds=30)

    found = worker.by_status(ids)
    state = budgets.get(worker.actor, stored.id).state
    assert len(found[Status.COMPLETED]) == len(worker.server.received) == 10
    assert {each.error_code for each in found[Status.FAILED]} == {"budget_spent"}
    assert len(found[Status.FAILED]) == 40
    assert (state.spent_tokens, state.spent_cost) == (150, 10 * CALL_COST)
    assert state.reserved_tokens == state.reserved_cost == 0
    assert not state.exceeded
    assert_consistent(worker.container.database)


def test_those_that_ask_are_parked_and_one_answer_lets_all_go_on(worker: ModelWorker) -> None:
    task = worker.task("greet me")
    budgets = worker.budgets
    limits = Budget(max_tokens=3 * CALL_TOKENS, on_budget=OnBudget.ASK)
    stored = budgets.put(worker.actor, BudgetScope.TASK, task, Period.DAY, limits)
    ids = worker.submit(task, 6)

    until(lambda: len(worker.asking(ids)) == 3, worker.go_on, rounds=20)
    assert len(worker.by_status(ids)[Status.COMPLETED]) == 3
    (first, *_) = worker.asking(ids)
    assert worker.get(first.asker).waiting_for is WaitingFor.BUDGET
    worker.answer(first, Answer(approved=True, value={"tokens": 2 * CALL_TOKENS}))

    until(lambda: len(worker.by_status(ids)[Status.COMPLETED]) == 5, worker.go_on, rounds=20)
    until(lambda: len(worker.asking(ids)) == 1, worker.go_on, rounds=20)
    (last,) = worker.asking(ids)
    assert last.key != first.key, "a second breach is a question of its own"
    with worker.container.database.autocommit() as connection:
        wanted = AuditFilter(action="approval.answer")
        trail = audit.find(connection, wanted, before=None, limit=10)
    assert len(trail) == 3, "one that was answered, and two that were answered with it"
    assert {each.details["approved"] for each in trail} == {True}
    assert {each.workspace_id for each in trail} == {worker.actor.workspace_id}
    worker.answer(last, Answer(approved=False))
    worker.work()

    (refused,) = worker.by_status(ids)[Status.FAILED]
    assert refused.error_code == "budget_spent"
    state = budgets.get(worker.actor, stored.id).state
    assert (state.spent_tokens, state.max_tokens) == (5 * CALL_TOKENS, 5 * CALL_TOKENS)


def test_a_larger_budget_lets_those_go_on_that_ask(worker: ModelWorker) -> None:
    task = worker.task("greet me")
    asking = Budget(max_tokens=CALL_TOKENS, on_budget=OnBudget.ASK)
    worker.budgets.put(worker.actor, BudgetScope.TASK, task, Period.MONTH, asking)
    ids = worker.submit(task, 3)
    until(lambda: len(worker.asking(ids)) == 2, worker.go_on, rounds=20)

    larger = asking.model_copy(update={"max_tokens": 2 * CALL_TOKENS})
    stored = worker.budgets.put(worker.actor, BudgetScope.TASK, task, Period.MONTH, larger)

    until(lambda: len(worker.by_status(ids)[Status.COMPLETED]) == 2, worker.go_on, rounds=20)
    until(lambda: len(worker.asking(ids)) == 1, worker.go_on, rounds=20)
    state = worker.budgets.get(worker.actor, stored.id).state
    assert state.max_tokens == 2 * CALL_TOKENS, "no more than was set"


def test_only_an_administrator_allows_more_of_a_users_budget(worker: ModelWorker) -> None:
    admin = make_actor(worker.container.database, Role.ADMIN)
    asking = Budget(max_tokens=CALL_TOKENS, on_budget=OnBudget.ASK)
    with pytest.raises(ForbiddenError):
        worker.budgets.put(worker.actor, BudgetScope.USER, worker.actor.user_id, Period.DAY, asking)
    worker.budgets.put(admin, BudgetScope.USER, worker.actor.user_id, Period.DAY, asking)
    ids = worker.submit(worker.task("greet me"), 2)
    until(lambda: len(worker.asking(ids)) == 1, worker.go_on, rounds=20)
    (question,) = worker.asking(ids)

    with pytest.raises(ForbiddenError):
        worker.answer(question, Answer(approved=True))
    with pytest.raises(NotFoundError):
        worker.answer(question, Answer(approved=True), actor=admin)
    member = replace(admin, workspace_id=worker.actor.workspace_id)
    worker.answer(question, Answer(approved=True), actor=member)

    until(lambda: len(worker.by_status(ids)[Status.COMPLETED]) == 2, worker.go_on, rounds=20)
