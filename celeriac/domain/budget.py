"""Budgets: how much model calls may cost, in money and in tokens."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, PlainSerializer, model_validator

from celeriac.domain.agent.base import Strict


class OnBudget(StrEnum):
    """What follows when a budget is spent."""

    STOP = "stop"
    """The execution fails at once with `budget_spent`."""
    ASK = "ask"
    """The execution is parked and a person is asked."""


Money = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=1_000_000_000, max_digits=18, decimal_places=9),
    PlainSerializer(str, return_type=str, when_used="json"),
]
"""US dollars; in JSON a number or a text, written as a text."""


class Budget(Strict):
    """A bound on model calls; at least one of the two limits is set."""

    max_cost: Money | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=10**15)
    """Input and output tokens together."""
    on_budget: OnBudget = Field(default=OnBudget.STOP, strict=False)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.max_cost is None and self.max_tokens is None:
            raise ValueError("set max_cost, max_tokens or both; a budget must bound something")
        return self
