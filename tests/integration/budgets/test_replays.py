"""Replayed executions: nobody is asked, nothing is spent, nobody else is held back."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import UsageBy
from celeriac.services.budgets.usage import Usage
from celeriac.services.cassettes import CassetteStore
from celeriac.settings import Settings
from tests.integration.budgets.test_provider_limits import SCENES, waiting
from tests.support.model_worker import Workers, model_workers, until

CALL_TOKENS = 15


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    with model_workers(settings, SCENES, home=tmp_path) as start:
        yield start


def test_a_replay_asks_neither_providers_nor_budgets(workers: Workers) -> None:
    worker, other = workers(), workers()
    (recorded,) = worker.submit(task := worker.task("busy one"), 1, RunOptions(record=True))
    worker.work()
    waiting(worker, recorded)
    worker.pass_waiting()
    other.work()  # the first one holds its own calls back by now
    assert worker.get(recorded).status is Status.COMPLETED
    cassette = asyncio.run(CassetteStore(worker.container.database).load(recorded))
    assert [(each.attempt, each.response.status) for each in cassette.interactions] == [
        (1, 429),
        (2, 200),
    ], "both attempts are on one cassette"

    wishes = RunOptions(cassette_id=recorded, budget=Budget(max_tokens=1))
    (played,) = worker.submit(task, 1, wishes)
    other.work()
    waiting(other, played)
    (fresh,) = other.submit(other.task("greet me"), 1)
    other.work()
    assert other.get(fresh).status is Status.COMPLETED, "the played refusal holds nobody back"
    until(lambda: other.get(played).status is Status.COMPLETED, other.go_on, rounds=3)

    row = other.get(played)
    assert row.result == worker.get(recorded).result
    assert (row.cost, row.output_tokens) == (Decimal(0), 5)
    assert len(worker.server.received) == 3, "the replay asked nobody"


def test_a_replay_counts_neither_in_usage_nor_in_a_budget_that_is_set_later(
    workers: Workers,
) -> None:
    worker = workers()
    (recorded,) = worker.submit(task := worker.task("greet me"), 1, RunOptions(record=True))
    worker.work()
    (played,) = worker.submit(task, 1, RunOptions(cassette_id=recorded))
    worker.work()
    assert worker.get(played).status is Status.COMPLETED
    assert len(worker.server.received) == 1

    budget = Budget(max_tokens=1_000)
    for _ in range(2):  # the second time in the place of one that was removed
        stored = worker.budgets.put(worker.actor, BudgetScope.TASK, task, Period.DAY, budget)
        assert stored.state.spent_tokens == CALL_TOKENS
        worker.budgets.delete(worker.actor, stored.id)
    (total,) = Usage(worker.container.database).totals(
        worker.actor, UsageBy.MODEL, task_id=task, limit=10
    )
    assert (total.key, total.calls) == ("test/model", 1)
    assert total.input_tokens + total.output_tokens == CALL_TOKENS
