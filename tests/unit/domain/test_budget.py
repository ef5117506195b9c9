"""Budgets: how they stand, and what is said about them."""

from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from pydantic import ValidationError

from celeriac.domain.agents import LlmAgent
from celeriac.domain.approvals import Answer, QuestionKind
from celeriac.domain.budget_kinds import BudgetScope, OnBudget
from celeriac.domain.budgets import Budget, BudgetState
from celeriac.domain.errors import BudgetSpentError
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate
from celeriac.services.budgets.messages import extension_of, question_about, spent_error
from celeriac.services.ports import Job

STANDING = BudgetState(
    budget_id=UUID(int=1),
    scope=BudgetScope.TASK,
    subject_id=UUID(int=2),
    window="2026-11-22",
    on_budget=OnBudget.ASK,
    max_cost=Decimal("2.50"),
    max_tokens=1000,
    spent_cost=Decimal("1.25"),
    spent_tokens=400,
    reserved_cost=Decimal(0),
    reserved_tokens=0,
    raised=0,
)
JOB = Job(
    execution_id=UUID(int=3),
    attempt=1,
    task_name="t",
    agent_name="a",
    agent=LlmAgent(model="p/m"),
    prompt="",
    variables={},
    output_schema=None,
    limits=Limits(),
)


@pytest.mark.parametrize(
    ("cost", "tokens", "spent_out", "exceeded"),
    [
        ("1.25", 400, False, False),
        ("2.50", 400, True, False),
        ("1.25", 1000, True, False),
        ("2.51", 400, True, True),
        ("1.25", 1001, True, True),
    ],
)
def test_what_is_spent_out_has_room_for_nothing(
    cost: str, tokens: int, spent_out: bool, exceeded: bool
) -> None:
    found = replace(STANDING, spent_cost=Decimal(cost), spent_tokens=tokens)
    assert (found.spent_out, found.exceeded) == (spent_out, exceeded)


def test_the_overshoot_is_what_lies_beyond_a_limit() -> None:
    found = replace(STANDING, spent_cost=Decimal("2.75"), spent_tokens=1010)
    assert (found.overshoot_cost, found.overshoot_tokens) == (Decimal("0.25"), 10)
    unbounded = replace(found, max_cost=None, max_tokens=None)
    assert unbounded.overshoot_cost == unbounded.overshoot_tokens == 0
    assert not unbounded.spent_out


def test_an_error_says_whose_budget_it_is_and_how_much_was_spent() -> None:
    error = spent_error(STANDING, "No more.")
    assert error.message == (
        "The task's budget of 2026-11-22 is spent: $1.25 of $2.50 and 400 of 1,000 tokens. No more."
    )
    assert error.details["window"] == "2026-11-22"
    own = replace(STANDING, scope=BudgetScope.EXECUTION, window="run", max_cost=None)
    assert spent_error(own).message == ("The execution's budget is spent: 400 of 1,000 tokens.")


def test_a_second_breach_is_a_question_of_its_own() -> None:
    first, second = question_about(STANDING, JOB), question_about(replace(STANDING, raised=1), JOB)
    assert first.kind is QuestionKind.BUDGET
    assert first.key != second.key
    assert first.expires_seconds == LlmAgent(model="p/m").approvals.expires_seconds


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (None, (Decimal("2.50"), 1000)),
        ({}, (Decimal("2.50"), 1000)),
        ({"cost": "0.75"}, (Decimal("0.75"), 0)),
        ({"cost": 1, "tokens": 5}, (Decimal(1), 5)),
        ({"cost": "0", "tokens": 0}, (Decimal(0), 0)),
    ],
)
def test_an_answer_allows_as_much_again_or_what_it_says(
    value: object, allowed: tuple[Decimal, int]
) -> None:
    assert extension_of(STANDING, Answer(approved=True, value=value)) == allowed


@pytest.mark.parametrize("value", ["yes", 5, {"cost": -1}, {"dollars": 1}, {"tokens": 0.5}])
def test_an_answer_that_can_not_be_read_allows_nothing(value: object) -> None:
    with pytest.raises(BudgetSpentError, match="can't be read"):
        extension_of(STANDING, Answer(approved=True, value=value))


def test_a_budget_bounds_something() -> None:
    with pytest.raises(ValidationError, match="set max_cost, max_tokens or both"):
        Budget()


def test_errors_and_questions_tell_no_numbers_of_a_users_budget() -> None:
    """All members of a workspace read them; the budget counts what the user runs anywhere."""
    call = CallEstimate(provider="p", model="m", input_tokens=777, output_tokens=77)
    found = replace(STANDING, scope=BudgetScope.USER)
    error, asked = spent_error(found, call=call), question_about(found, JOB, call)
    assert "user's budget of 2026-11-22" in error.message
    said = f"{error.message} {dict(error.details)} {asked.title} {dict(asked.arguments)}"
    for number in ("2.5", "1.25", "1000", "1,000", "400", "77"):
        assert number not in said
    spent = replace(found, spent_tokens=1000)
    assert spent_error(spent).message == "The user's budget of 2026-11-22 is spent."
    assert asked.arguments["scope"] == "user", "so only an administrator may answer"
