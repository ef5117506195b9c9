"""What kinds of budgets there are; without the packages that make commands slow to start."""

from enum import StrEnum


class OnBudget(StrEnum):
    """What follows when a budget is spent."""

    STOP = "stop"
    """The execution fails at once with `budget_spent`."""
    ASK = "ask"
    """The execution is parked and a person is asked."""


class BudgetScope(StrEnum):
    """Whose model calls a budget bounds together."""

    EXECUTION = "execution"
    TASK = "task"
    USER = "user"


class Period(StrEnum):
    """After what time a budget begins anew, at midnight UTC by the database's clock."""

    DAY = "day"
    MONTH = "month"
