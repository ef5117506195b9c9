"""Usage is appended by workers and folded by the keeper; readers see each call once at any time."""

import asyncio
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celeriac.db import usage
from celeriac.db.budgets import management, windows
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.executions import leases
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget
from celeriac.domain.usage import ModelCall, UsageBy, UsageTotal
from celeriac.services.budgets.usage import Usage
from tests.support.attempts import AgentAttempt
from tests.support.core import Core
from tests.support.outages import holding
from tests.support.together import together

CALLS = 60
MODELS = ("a", "b", "c")


@pytest.fixture
def used(core: Core, tmp_path: Path) -> Core:
    """A core whose workers have appended `CALLS` calls of some models, each in a batch."""
    attempt = AgentAttempt(core, core.running(), tmp_path)
    for number in range(CALLS):
        call = ModelCall("p", MODELS[number % len(MODELS)], 10, 5, cost=Decimal("0.25"))
        asyncio.run(attempt.context.charge(call))
        batch = attempt.next_batch()
        assert batch is not None
        with core.database.autocommit() as connection:
            assert leases.store_batch(connection, [batch])
        attempt.batch_stored()
    return core


def totals(core: Core, by: UsageBy) -> list[UsageTotal]:
    return Usage(core.database).totals(replace(core.actor, administrator=True), by)


def rows(core: Core, query: str) -> list[Any]:
    with core.database.autocommit() as connection:
        return list(connection.execute(text(query)).all())


def fold(core: Core, limit: int) -> int:
    with core.database.autocommit() as connection:
        return usage.fold(connection, limit=limit)


@pytest.mark.parametrize("by", UsageBy)
def test_totals_are_the_same_before_amid_and_after_the_fold(used: Core, by: UsageBy) -> None:
    before = totals(used, by)
    assert sum(total.calls for total in before) == CALLS
    assert sum(total.cost for total in before) == CALLS * Decimal("0.25")
    assert fold(used, 7) == 7
    assert totals(used, by) == before
    assert Usage(used.database).fold(7) == CALLS - 7
    assert totals(used, by) == before
    assert used.count("usage_deltas") == 0
    assert used.count("usage_days") == len(MODELS)
    assert fold(used, 7) == 0


@pytest.mark.requirement("D7")
def test_the_fold_counts_how_long_calls_took_of_a_bounded_number_of_models(
    used: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MOST_MODELS", len(MODELS) - 1)
    while fold(used, 7):
        pass
    found = rows(used, "SELECT provider, model, sum(calls) FROM model_call_times GROUP BY 1, 2")
    named = {(provider, model) for provider, model, _ in found}
    assert len(named) == len(MODELS), "those that are named, and the others as one"
    assert ("other", "other") in named
    assert sum(calls for *_, calls in found) == CALLS


def test_keepers_that_fold_at_once_lose_and_double_nothing_at_any_instant(used: Core) -> None:
    expected = (CALLS, CALLS * 10, CALLS * 5, CALLS * Decimal("0.25"))
    query = "SELECT sum(calls), sum(input_tokens), sum(output_tokens), sum(cost) FROM usage_entries"
    seen: list[Any] = []
    folded = threading.Event()

    def read() -> int:
        while not folded.is_set():
            seen.extend(rows(used, query))
        return 0

    def fold_all() -> int:
        total = 0
        try:
            while used.count("usage_deltas"):
                total += fold(used, 3)
        finally:
            folded.set()
        return total

    assert sum(together([fold_all, read, fold_all, read, fold_all])) == CALLS
    assert set(rows(used, query) + seen) == {expected}


def test_a_fold_waits_for_no_delta_that_another_has_locked(used: Core) -> None:
    before = totals(used, UsageBy.MODEL)
    lock = "SELECT id FROM usage_deltas ORDER BY id LIMIT 5 FOR UPDATE"
    with holding(used.database.engine.url, lock):
        assert fold(used, CALLS) == CALLS - 5
        assert totals(used, UsageBy.MODEL) == before
    assert fold(used, CALLS) == 5
    assert totals(used, UsageBy.MODEL) == before


def test_workers_append_while_the_totals_of_the_day_are_locked(used: Core, tmp_path: Path) -> None:
    fold(used, CALLS)
    attempt = AgentAttempt(used, used.running(), tmp_path)
    asyncio.run(attempt.context.charge(ModelCall("p", "a", 10, 5)))
    with holding(used.database.engine.url, "SELECT day FROM usage_days FOR UPDATE"):
        with used.database.autocommit() as connection:
            assert leases.store_batch(connection, attempt.last_batches())
        assert sum(total.calls for total in totals(used, UsageBy.DAY)) == CALLS + 1


def test_a_window_of_a_budget_begins_with_what_is_folded_and_what_is_not(used: Core) -> None:
    fold(used, CALLS // 2)
    with used.database.transaction() as connection:
        workspace = used.actor.workspace_id
        for scope, subject in (
            (BudgetScope.TASK, used.task),
            (BudgetScope.USER, _user(used)),
            (BudgetScope.WORKSPACE, workspace),
        ):
            management.put(
                connection,
                scope=scope,
                subject_id=subject,
                workspace_id=workspace,
                owner_id=_user(used),
                period=Period.DAY,
                budget=Budget(max_tokens=1_000_000),
            )
        wanted = ChargeScope(None, used.task, _user(used), workspace, None)
        windows.begin_windows(connection, wanted)
        states = windows.states(connection, wanted)
    spent = [(state.spent_tokens, state.spent_cost) for state in states]
    assert spent == [(CALLS * 15, CALLS * Decimal("0.25"))] * 3


def _user(core: Core) -> Any:
    return core.actor.user_id
