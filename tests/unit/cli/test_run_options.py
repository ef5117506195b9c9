"""Options of commands that run a task."""

from typing import Any

import pytest

from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.executions.run import RunOptions
from celeriac.client.executions import options_body
from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import Budget


def test_what_is_not_given_is_not_sent() -> None:
    assert options_body(RunOptions().for_client()) == {}


def test_everything_that_is_given_is_sent() -> None:
    given = RunOptions(
        priority="high", session="0199", fork=True, budget_cost=0.1, budget_tokens=9, ask=True,
        record=True,
    )  # fmt: skip
    assert options_body(given.for_client()) == {
        "priority": "high", "session_id": "0199", "fork_session": True, "record": True,
        "budget": {"max_cost": "0.1", "max_tokens": 9, "on_budget": "ask"},
    }  # fmt: skip


def test_a_budget_may_be_given_as_such() -> None:
    budget = Budget(max_tokens=5, on_budget=OnBudget.ASK)
    assert options_body({"budget": budget}) == {"budget": {"max_tokens": 5, "on_budget": "ask"}}


@pytest.mark.parametrize(
    ("given", "named"), [({"fork": True}, "--session"), ({"ask": True}, "--budget-cost")]
)
def test_options_that_need_others_say_so(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageProblemError, match=named):
        RunOptions(**given).for_client()
