"""The kinds of budgets. Standard library only, because every command imports it."""

from enum import StrEnum


class OnBudget(StrEnum):
    """What happens when a budget is spent."""

    STOP = "stop"
    """The execution fails at once with `budget_spent`."""
    ASK = "ask"
    """The execution is parked and a person is asked."""


class BudgetScope(StrEnum):
    """The model calls that share a budget."""

    EXECUTION = "execution"
    TASK = "task"
    USER = "user"
    WORKSPACE = "workspace"


class Period(StrEnum):
    """How long a budget window lasts. It begins at midnight UTC by the database's clock."""

    DAY = "day"
    MONTH = "month"
