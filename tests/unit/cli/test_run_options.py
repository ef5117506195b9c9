"""Options of commands that run a task."""

from typing import Any

import pytest

from celeriac.cli.core.arguments import run_options
from celeriac.cli.core.output import UsageProblemError
from celeriac.client.executions import options_body
from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import Budget

NOTHING: dict[str, Any] = {
    "priority": None, "queue": None, "session": None, "fork": False, "cost": None,
    "tokens": None, "ask": False, "record": False,
}  # fmt: skip


def test_what_is_not_wished_for_is_not_sent() -> None:
    assert options_body(run_options(**NOTHING)) == {}


def test_everything_that_is_wished_for_is_sent() -> None:
    given = NOTHING | {
        "priority": "high", "session": "0199", "fork": True, "cost": 0.1, "tokens": 9, "ask": True,
        "record": True,
    }  # fmt: skip
    assert options_body(run_options(**given)) == {
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
        run_options(**NOTHING | given)
