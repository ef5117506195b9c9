"""Budgets and usage."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.wire import examples
from celeriac.wire.base import Dollars, Links, Wire, example


class BudgetStanding(Wire):
    """How far a budget is used in its present window."""

    budget_id: UUID = Field(description="Of an execution's own budget: the execution's id.")
    scope: BudgetScope
    subject_id: UUID = Field(description="The execution, the task or the user.")
    window: str = Field(description="`2026-11-22`, `2026-11`, or `run` for an execution's own.")
    on_budget: OnBudget
    max_cost: Dollars | None = Field(description="With what people allowed in addition.")
    max_tokens: int | None = Field(description="With what people allowed in addition.")
    spent_cost: Dollars
    spent_tokens: int
    reserved_cost: Dollars = Field(description="What calls under way may cost.")
    reserved_tokens: int = Field(description="What calls under way may use.")
    overshoot_cost: Dollars = Field(description="Spent beyond the limit: part of one call.")
    overshoot_tokens: int = Field(description="Spent beyond the limit: part of one call.")
    raised: int = Field(description="How often people allowed more.")


class BudgetStandings(Wire):
    """How all budgets stand that apply to an execution."""

    model_config = example(examples.BUDGET_STANDINGS)

    items: list[BudgetStanding]


class Budget(Wire):
    """The budget of a task or a user."""

    model_config = example(examples.BUDGET)

    id: UUID
    scope: BudgetScope
    subject_id: UUID = Field(description="The task or the user.")
    subject_name: str | None
    owner_id: UUID
    period: Period = Field(description="It begins anew at midnight UTC: each day or each month.")
    max_cost: Dollars | None = Field(description="US dollars.")
    max_tokens: int | None = Field(description="Input and output tokens together.")
    on_budget: OnBudget = Field(
        description="stop: the execution fails with `budget_spent`; ask: it waits for a person."
    )
    standing: BudgetStanding
    created_at: datetime
    updated_at: datetime
    links: Links = Field(alias="_links")


class MadeCall(Wire):
    """A model call of an execution."""

    model_config = example(examples.MADE_CALL)

    id: UUID
    attempt: int
    at: datetime
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(description="Part of the input tokens.")
    latency_ms: int
    finish_reason: str | None
    cost: Dollars | None = Field(description="US dollars; null where no price is known.")


class UsageTotal(Wire):
    """What model calls used together."""

    key: str = Field(description="The task's or user's id, the day, or `provider/model`.")
    name: str | None
    calls: int
    unpriced_calls: int = Field(description="Calls without a known price; the cost lacks theirs.")
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: Dollars


class UsageTotals(Wire):
    """Totals: the newest days first, of all else the dearest first."""

    model_config = example(examples.USAGE_TOTALS)

    items: list[UsageTotal]
